"""`progdistill data`: prepare datasets, list them, look into one."""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from progdistill.cli.common import add_json_argument, check_output, print_json, require_between, writing
from progdistill.errors import UsageError

if TYPE_CHECKING:
    from progdistill.data.dataset import DatasetInfo
    from progdistill.data.manifest import DatasetManifest
    from progdistill.data.preprocess import ImageRule

GRID_IMAGES: Final = 64
SHOWN_CLASSES: Final = 20
BAR_WIDTH: Final = 40
MOST_UNREADABLE: Final = 1_000_000_000
"""More images than any dataset has."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb with its own verbs prepare, list, info."""
    parser = subparsers.add_parser("data", help="prepare datasets, list them, look into one")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    prepare = _verb(verbs, "prepare", _prepare, "turn downloaded files or own images into a dataset")
    prepare.add_argument(
        "name", metavar="NAME", help="a known dataset (see `data list`), or a name of your own"
    )
    prepare.add_argument("--source", type=Path, metavar="PATH", help="archive, folder or file to read")
    prepare.add_argument(
        "--out", metavar="URI", help="folder or s3://bucket/prefix (default: data folder/NAME)"
    )
    own = prepare.add_argument_group("own images")
    own.add_argument(
        "--image-size", type=int, metavar="N", help="bring all images to N×N (default: as they are)"
    )
    own.add_argument("--crop", choices=("center", "stretch"), help="(default: center)")
    own.add_argument("--resize", choices=("area", "bilinear", "lanczos"), help="(default: area)")
    own.add_argument("--gray", action="store_true", help="one channel instead of three")
    own.add_argument(
        "--no-flip", action="store_true", help="a mirrored image would be wrong (letters, digits)"
    )
    text = "images that may be left out because they cannot be read (default: %(default)s)"
    prepare.add_argument("--max-unreadable", type=int, default=100, metavar="N", help=text)
    prepare.add_argument(
        "--unverified", action="store_true", help="accept other checksums and counts than published"
    )
    _verb(verbs, "list", _list, "datasets that are prepared, and how to get the others")
    info = _verb(verbs, "info", _info, "counts, classes, mean and spread, fingerprint")
    info.add_argument("name", metavar="NAME", help="a prepared dataset's name, folder or URI")
    info.add_argument("--grid", type=Path, metavar="FILE", help=f"write a PNG of {GRID_IMAGES} images")
    info.add_argument(
        "--split", default="train", metavar="NAME", help="of which split (default: %(default)s)"
    )
    info.add_argument("--verify", action="store_true", help="read every byte and compare it with its digest")


def _verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text)
    add_json_argument(parser)
    parser.set_defaults(run=run)
    return parser


def _prepare(args: argparse.Namespace) -> int:
    from progdistill.data.dataset import default_data_root, info_of
    from progdistill.data.importers.registry import open_source
    from progdistill.data.prepare import prepare

    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", args.name):
        raise UsageError(f"{args.name!r} cannot name a dataset: use letters, digits and ._-")
    require_between("--max-unreadable", args.max_unreadable, 0, MOST_UNREADABLE)
    source = open_source(
        args.name,
        args.source,
        _rule(args),
        horizontal_flip_safe=not args.no_flip,
        unverified=args.unverified,
    )
    root = default_data_root()
    out = args.out or str(root / args.name)
    made_at = root / args.name if out.startswith("s3://") else Path(out.removeprefix("file://"))
    option = "PROGDISTILL_DATA" if made_at.is_relative_to(root) else "--out"
    check_output(option, made_at.expanduser(), folder=True)
    manifest = prepare(source, args.name, out, staging_root=root, max_unreadable=args.max_unreadable)
    info = info_of(manifest, out)
    if args.json:
        print_json(_facts(info, manifest))
    else:
        print(f"{info.name} is ready in {info.location}: {_counts(info)}, fingerprint {info.fingerprint}")
        if args.out is None:
            print(f"use it with: --dataset {info.name}")
    return 0


def _rule(args: argparse.Namespace) -> "ImageRule":
    from progdistill.data.catalog import CATALOG
    from progdistill.data.preprocess import Crop, ImageRule, Resize

    fitting = {"--image-size": args.image_size, "--crop": args.crop, "--resize": args.resize}
    own = fitting | {"--gray": args.gray, "--no-flip": args.no_flip}
    given = [option for option, value in own.items() if value]
    if given and args.name in CATALOG:
        raise UsageError(f"{args.name} has its own form: choose another NAME to use {', '.join(given)}")
    if args.image_size is None and (args.crop or args.resize):
        raise UsageError("--crop and --resize need --image-size N: without it images are used as they are")
    if args.image_size is not None and args.image_size < 1:
        raise UsageError(f"--image-size {args.image_size}: give a number of pixels from 1 on")
    return ImageRule(
        image_size=args.image_size,
        crop=Crop(args.crop or Crop.CENTER),
        resize=Resize(args.resize or Resize.AREA),
        channels=1 if args.gray else 3,
        upright=True,
    )


def _list(args: argparse.Namespace) -> int:
    from progdistill.data.catalog import CATALOG, prepare_line
    from progdistill.data.dataset import default_data_root, known_datasets

    root = default_data_root()
    # By folder: that is what --dataset finds, whatever name it was prepared under.
    prepared = {Path(info.location).name: info for info in known_datasets(root)}
    missing = [name for name in CATALOG if name not in prepared]
    if args.json:
        facts = [info.model_dump(mode="json") | {"prepared": True} for info in prepared.values()]
        facts += [
            {"name": name, "prepared": False, "title": CATALOG[name].title, "command": prepare_line(name)}
            for name in missing
        ]
        print_json(facts)
        return 0
    print(f"prepared in {root}:" if prepared else f"nothing is prepared in {root} yet")
    for name, info in prepared.items():
        print(f"  {name:<14} {_shape(info)}, {_counts(info)}, {_classes(info)}")
    print("can be prepared:")
    for name in missing:
        print(f"  {name:<14} {CATALOG[name].title}\n{'':17}{prepare_line(name)}")
    return 0


def _info(args: argparse.Namespace) -> int:
    from progdistill.data.dataset import default_data_root, find_dataset, manifest_of
    from progdistill.data.reading import verify_dataset

    info = find_dataset(args.name, default_data_root())
    manifest = manifest_of(info)
    if args.split not in info.splits:
        raise UsageError(f"{info.name} has no split {args.split!r}; it has {', '.join(info.splits)}")
    if args.verify:
        verify_dataset(info)
        print(f"every shard of {info.name} is intact", file=sys.stderr)
    if args.grid is not None:
        _write_grid(info, args.split, args.grid)
    if args.json:
        print_json(_facts(info, manifest))
    else:
        print(_described(info, manifest, args.split))
    return 0


def _write_grid(info: "DatasetInfo", split: str, path: Path) -> None:
    """Write the first images of a split, which stores them in random order, as one PNG."""
    from progdistill.data.reading import iterate_images
    from progdistill.images import encode_png, grid, readable_scale

    images, _ = next(iterate_images(info, split, GRID_IMAGES))
    with writing("--grid", path):
        path.write_bytes(encode_png(grid(images, scale=readable_scale(info.image_size))))


def _facts(info: "DatasetInfo", manifest: "DatasetManifest") -> dict[str, Any]:
    return info.model_dump(mode="json") | {
        "bytes": manifest.size_bytes,
        "shards": {split: len(entries) for split, entries in manifest.splits.items()},
        "statistics": {split: found.model_dump(mode="json") for split, found in manifest.statistics.items()},
        "prepared_from": manifest.prepared_from.model_dump(mode="json"),
    }


def _described(info: "DatasetInfo", manifest: "DatasetManifest", split: str) -> str:
    statistics, origin = manifest.statistics[split], manifest.prepared_from
    lines = [
        f"{info.name}: {_shape(info)}, {_counts(info)}",
        f"location     {info.location}, {manifest.size_bytes / 1e6:,.1f} MB",
        f"fingerprint  {info.fingerprint}",
        f"pixels       mean {_channels(statistics.mean)}, spread {_channels(statistics.spread)} ({split})",
        f"flips        {'a mirrored image is fine' if info.horizontal_flip_safe else 'never mirrored'}",
        f"from         {origin.source} ({origin.importer}: {origin.description})",
    ]
    if origin.unreadable:
        lines.append(
            f"left out     {len(origin.unreadable)} unreadable images: {', '.join(origin.unreadable[:5])}"
        )
    return "\n".join([*lines, *_histogram(info, statistics.class_counts)])


def _histogram(info: "DatasetInfo", class_counts: tuple[int, ...]) -> list[str]:
    """A bar for each class; of many classes, the largest and the smallest."""
    if not info.class_names:
        return ["classes      none"]
    rows = list(zip(info.class_names, class_counts, strict=True))
    lines = [f"classes      {len(rows):,}, {min(class_counts):,} to {max(class_counts):,} images each"]
    if len(rows) > SHOWN_CLASSES:
        ranked = sorted(rows, key=lambda row: -row[1])
        rows = [*ranked[: SHOWN_CLASSES // 2], *ranked[-SHOWN_CLASSES // 2 :]]
    width = max(len(name) for name, _ in rows)
    most = max(1, *class_counts)
    return lines + [
        f"  {name:<{width}} {count:>9,} {'█' * round(BAR_WIDTH * count / most)}" for name, count in rows
    ]


def _shape(info: "DatasetInfo") -> str:
    return f"{info.image_size}×{info.image_size} {'gray' if info.channels == 1 else 'RGB'}"


def _counts(info: "DatasetInfo") -> str:
    return " + ".join(f"{count:,} {split}" for split, count in info.splits.items())


def _classes(info: "DatasetInfo") -> str:
    return f"{info.num_classes:,} classes" if info.num_classes else "no classes"


def _channels(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.1f}" for value in values)
