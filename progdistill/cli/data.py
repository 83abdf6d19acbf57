"""`progdistill data`: prepare, list and inspect datasets."""

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from progdistill.cli.common import Verbs, add_verb, check_output, print_json, status_of, store_of, writing
from progdistill.errors import ProgdistillError, UsageError, require_between
from progdistill.escape import one_line, printable

if TYPE_CHECKING:
    from progdistill.data.columns import Column
    from progdistill.data.dataset import DatasetInfo
    from progdistill.data.manifest import DatasetManifest
    from progdistill.data.preprocess import Preprocessing
    from progdistill.data.source import Source, SourceFacts

GRID_IMAGES: Final = 64
SHOWN_CLASSES: Final = 20
BAR_WIDTH: Final = 40
MAX_UNREADABLE: Final = 1_000_000_000
"""More images than any dataset has."""


def add_parser(subparsers: Verbs) -> None:
    """Add `data` with its verbs prepare, list and info."""
    text = "prepare, list and inspect datasets"
    verbs = subparsers.add_parser("data", help=text, description=text).add_subparsers(required=True, metavar="VERB")
    text = "prepare a dataset from downloaded files or your own images"
    examples = """
        progdistill data prepare flowers --source FOLDER --image-size 64
        progdistill data prepare cifar10 --source cifar-10-python.tar.gz
        progdistill data prepare flowers --source FOLDER --image-size 64 --out s3://BUCKET/datasets/flowers
        """
    prepare = add_verb(verbs, "prepare", _prepare, text, store=False, examples=examples)
    prepare.add_argument("name", metavar="NAME", help="a known dataset (see `data list`) or a new name")
    prepare.add_argument("--source", type=Path, metavar="PATH", help="archive, folder or file to read")
    prepare.add_argument("--out", metavar="URI", help="folder, s3://… or gs://… (default: data folder)")
    own = prepare.add_argument_group("your own images")
    own.add_argument("--image-size", type=int, metavar="N", help="resize to N×N (default: as they are)")
    own.add_argument("--crop", choices=("center", "stretch"), help="(default: center)")
    own.add_argument("--resize", choices=("area", "area_coverage", "bilinear", "lanczos"), help="(default: area)")
    own.add_argument("--gray", action="store_true", help="one channel instead of three")
    own.add_argument("--grey", action="store_true", help=argparse.SUPPRESS)
    text = "train, validation, test or none (left out): the split of all files, or of those whose path matches"
    own.add_argument("--split", action="append", default=[], metavar="NAME[=PATTERN]", dest="splits", help=text)
    own.add_argument("--no-flip", action="store_true", help="never mirror images (letters, digits)")
    text = "where captions are: a column or field of that name, or txt for text files beside the images"
    own.add_argument("--captions", metavar="NAME", help=text)
    text = "no images: one sample for each of N classes of a model; 0 for a model without classes"
    prepare.add_argument("--classes", type=int, metavar="N", help=text)
    prepare.add_argument("--subcategories", action="store_true", help="of emoji, as its classes")
    text = "skip up to N images that cannot be read (default: %(default)s)"
    prepare.add_argument("--max-unreadable", type=int, default=100, metavar="N", help=text)
    prepare.add_argument("--unverified", action="store_true", help="accept unpublished checksums and counts")
    _add_encode(verbs)
    add_verb(verbs, "list", _list, "list prepared datasets, and how to get the others", store=False)
    info = add_verb(verbs, "info", _info, "show counts, classes, mean and std, fingerprint", store=False)
    info.add_argument("name", metavar="NAME", help="name, folder or URI of a prepared dataset")
    info.add_argument("--grid", type=Path, metavar="FILE", help=f"write a PNG of {GRID_IMAGES} images")
    info.add_argument("--split", default="train", metavar="NAME", help="split to show (default: %(default)s)")
    info.add_argument("--verify", action="store_true", help="read every byte and compare it with its digest")


def _add_encode(verbs: Verbs) -> None:
    text = "encode images and prompts for a latent or text-conditional model"
    encode = add_verb(verbs, "encode", _encode, text)
    encode.add_argument("dataset", metavar="DATASET", help="name, folder or URI of a prepared dataset")
    text = "folder of a diffusers pipeline, or checkpoint (id, alias, Flow/run/steps) of an imported one or its student"
    encode.add_argument("--pipeline", required=True, metavar="FOLDER|REF", help=text)
    encode.add_argument("--name", metavar="NAME", help="of the encoded dataset (default: DATASET-encoded)")
    encode.add_argument("--out", metavar="URI", help="folder, s3://… or gs://… (default: data folder)")
    text = 'prompt of a class, such as "a photo of {class}" (default: captions)'
    encode.add_argument("--template", metavar="TEXT", help=text)
    text = "what guidance leads away from (default: as the stock pipeline)"
    encode.add_argument("--negative-prompt", default="", metavar="TEXT", help=text)
    encode.add_argument("--keep-images", action="store_true", help="store the images beside their latents")
    encode.add_argument("--half", action="store_true", help="store embeddings in float16: half the size")
    text = "samples encoded at a time (default: %(default)s)"
    encode.add_argument("--batch-size", type=int, default=16, metavar="N", help=text)
    encode.add_argument("--launcher", choices=("local", "kubernetes"), default="local", help="where it computes")
    text = "a setting of compute or cluster, such as compute.world_size=8"
    encode.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", help=text)


def _encode(args: argparse.Namespace) -> int:
    from progdistill.config.overrides import Override, read_override
    from progdistill.config.settings import LauncherName
    from progdistill.data.dataset import manifest_of
    from progdistill.run.encode import EncodeOptions, encode_dataset

    require_between("--batch-size", args.batch_size, 1, MAX_UNREADABLE)
    if args.name is not None:
        _check_name(args.name)
    overrides = [found for text in args.set if isinstance(found := read_override(text), Override)]
    options = EncodeOptions(
        dataset=args.dataset,
        pipeline=args.pipeline,
        name=args.name,
        out=args.out,
        template=args.template,
        negative_prompt=args.negative_prompt,
        keep_images=args.keep_images,
        half=args.half,
        batch_size=args.batch_size,
        launcher=LauncherName(args.launcher),
        set=tuple(overrides),
    )
    info = encode_dataset(store_of(args, may_be_new=True), options)
    if args.json:
        print_json(_facts(info, manifest_of(info)))
    else:
        print(f"{info.name} is ready in {info.location}: {_counts(info)}, fingerprint {info.fingerprint}")
        if args.out is None:
            print(f"use it with: --dataset {info.name}")
    return 0


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", name):
        raise UsageError(f"{name!r} is not a valid dataset name: use up to 200 letters, digits and ._-")


def _prepare(args: argparse.Namespace) -> int:
    from progdistill.config.presets import preset_for
    from progdistill.data.dataset import default_data_root, info_of
    from progdistill.data.importers.registry import open_source
    from progdistill.data.importers.splits import parse_choices
    from progdistill.data.prepare import prepare

    _check_name(args.name)
    require_between("--max-unreadable", args.max_unreadable, 0, MAX_UNREADABLE)
    source = _emoji_or_classes(args) or open_source(
        args.name,
        args.source,
        _preprocessing(args),
        horizontal_flip_safe=not args.no_flip,
        unverified=args.unverified,
        choices=parse_choices(args.splits),
        captions=args.captions,
    )
    root = default_data_root()
    out = args.out or str(root / args.name)
    written = root / args.name if out.startswith(("s3://", "gs://")) else Path(out.removeprefix("file://"))
    option = "PROGDISTILL_DATA" if written.is_relative_to(root) else "--out"
    check_output(option, written.expanduser(), folder=True)
    manifest = prepare(source, args.name, out, staging_root=root, max_unreadable=args.max_unreadable)
    info = info_of(manifest, out)
    if args.json:
        print_json(_facts(info, manifest))
    else:
        print(printable("\n".join(_account(source.facts, manifest))))
        print(one_line(f"{info.name} is ready in {info.location}: {_counts(info)}, fingerprint {info.fingerprint}"))
        if args.out is None:
            print(f"use it with: --dataset {info.name}")
        try:
            preset_for(None, info)
        except UsageError as error:
            print(f"note: {error}")
    return 0


def _emoji_or_classes(args: argparse.Namespace) -> "Source | None":
    """The sources that take options of their own."""
    from progdistill.data.catalog import CATALOG
    from progdistill.data.importers.common import MAX_CLASSES
    from progdistill.data.importers.emoji import EmojiSource
    from progdistill.data.importers.prompts import ClassesSource

    if args.classes is not None:
        if args.source is not None:
            raise UsageError("--classes is for a dataset without files: leave --source out")
        require_between("--classes", args.classes, 0, MAX_CLASSES)
        return ClassesSource(args.classes)
    if args.name != "emoji":
        if args.subcategories:
            raise UsageError("--subcategories is for the dataset emoji")
        return None
    if any((args.crop, args.resize, args.gray, args.splits, args.captions)):
        raise UsageError("emoji takes --image-size and --subcategories only: choose another NAME to use other options")
    if args.image_size not in (None, 16, 32, 64):
        raise UsageError(f"--image-size {args.image_size}: emoji are prepared with 16, 32 or 64 pixels")
    if args.source is None or not args.source.is_file():
        raise UsageError(f"give the file of emoji with --source PATH: {CATALOG['emoji'].files}")
    size = args.image_size or 32
    return EmojiSource(args.source, size, subcategories=args.subcategories, unverified=args.unverified)


def _account(facts: "SourceFacts", manifest: "DatasetManifest") -> list[str]:
    """What was used of the source, and what was not, and why."""
    used = " + ".join(f"{count:,} {split}" for split, count in manifest.counts.items())
    classes = f"{len(facts.class_names):,}, from {facts.labels_from}" if facts.class_names else "none"
    lines = [f"used      {used} of {sum(facts.splits.values()):,} images found", f"classes   {classes}"]
    if skipped := manifest.prepared_from.unreadable:
        names = ", ".join(skipped[:3]) + (", …" if len(skipped) > 3 else "")
        lines.append(f"not used  unreadable ({len(skipped):,}): {names}")
    return lines + [f"not used  {line}" for line in facts.not_used]


def _preprocessing(args: argparse.Namespace) -> "Preprocessing":
    from progdistill.data.catalog import CATALOG
    from progdistill.data.preprocess import Crop, Preprocessing, Resize

    if args.grey:
        raise UsageError("--grey is now --gray")
    options = ("image_size", "crop", "resize", "gray", "splits", "no_flip", "captions")
    named = {option: f"--{option.replace('_', '-')}" for option in options} | {"splits": "--split"}
    given = [named[option] for option in options if getattr(args, option)]
    if given and args.name in CATALOG:
        raise UsageError(f"{args.name} has a fixed form: choose another NAME to use {', '.join(given)}")
    if args.image_size is None and (args.crop or args.resize):
        raise UsageError("--crop and --resize need --image-size N: without it images are used as they are")
    if args.image_size is not None and args.image_size < 1:
        raise UsageError(f"--image-size {args.image_size}: give a positive number of pixels")
    return Preprocessing(
        image_size=args.image_size,
        crop=Crop(args.crop or Crop.CENTER),
        resize=Resize(args.resize or Resize.AREA),
        channels=1 if args.gray else 3,
        upright=True,
    )


def _list(args: argparse.Namespace) -> int:
    from progdistill.data.catalog import CATALOG, prepare_command
    from progdistill.data.dataset import default_data_root, known_datasets

    root = default_data_root()
    # By folder: that is what --dataset finds, whatever name it was prepared under.
    unreadable: list[ProgdistillError] = []
    prepared = {Path(info.location).name: info for info in known_datasets(root, unreadable)}
    missing = [name for name in CATALOG if name not in prepared]
    if args.json:
        facts = [info.model_dump(mode="json") | {"prepared": True} for info in prepared.values()]
        titles = [{"name": name, "title": CATALOG[name].title, "command": prepare_command(name)} for name in missing]
        print_json([*facts, *(fact | {"prepared": False} for fact in titles)])
        return status_of(unreadable)
    print(f"prepared in {root}:" if prepared else f"no datasets prepared in {root} yet")
    for name, info in prepared.items():
        classes = f"{info.num_classes:,} classes" if info.num_classes else "no classes"
        print(one_line(f"  {name:<14} {_shape(info)}, {_counts(info)}, {classes}"))
    print("can be prepared:")
    for name in missing:
        print(f"  {name:<14} {CATALOG[name].title}\n{'':17}{prepare_command(name)}")
    return status_of(unreadable)


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
        print(printable(_description(info, manifest, args.split)))
    return 0


def _write_grid(info: "DatasetInfo", split: str, path: Path) -> None:
    """Write the first images of a split, which are in random order, as one PNG."""
    from progdistill.data.reading import iterate_images
    from progdistill.images import encode_png, grid, readable_scale

    images, _ = next(iterate_images(info, split, GRID_IMAGES), (None, None))
    if images is None:
        raise UsageError(f"split {split} of {info.name} has no images to draw")
    with writing("--grid", path):
        path.write_bytes(encode_png(grid(images, scale=readable_scale(info.image_size))))
    print(f"wrote {len(images)} images to {path}", file=sys.stderr)


def _facts(info: "DatasetInfo", manifest: "DatasetManifest") -> dict[str, Any]:
    return info.model_dump(mode="json") | {
        "bytes": manifest.size_bytes,
        "shards": {split: len(entries) for split, entries in manifest.splits.items()},
        "statistics": {split: found.model_dump(mode="json") for split, found in manifest.statistics.items()},
        "prepared_from": manifest.prepared_from.model_dump(mode="json"),
    }


def _description(info: "DatasetInfo", manifest: "DatasetManifest", split: str) -> str:

    statistics, origin = manifest.statistics[split], manifest.prepared_from
    form = ".1f" if info.image_size else ".3g"
    mean, std = (" ".join(f"{value:{form}}" for value in values) for values in (statistics.mean, statistics.std))
    lines = [
        f"{info.name}: {_shape(info)}, {_counts(info)}",
        f"location     {info.location}, {manifest.size_bytes / 1e6:,.1f} MB",
        f"fingerprint  {info.fingerprint}",
        *([f"{'pixels' if info.image_size else 'latents':<13}mean {mean}, std {std} ({split})"] if mean else []),
        *(f"{'column':<13}{column.name} {_dimensions(column)}" for column in info.columns),
        f"flips        {'allowed' if info.horizontal_flip_safe else 'never'}",
        f"source       {origin.source} ({origin.importer}: {origin.description})",
    ]
    if manifest.encoded_by is not None:
        empty = ", the empty prompt among them" if manifest.unconditional else ""
        lines.append(f"encoded by   pipeline {manifest.encoded_by}{empty}")
    if origin.cut_prompts:
        lines.append(f"prompts      {origin.cut_prompts:,} longer than the text encoder takes, and cut")
    if origin.unreadable:
        lines.append(f"skipped      {len(origin.unreadable)} unreadable: {', '.join(origin.unreadable[:5])}")
    lines += [f"not used     {line}" for line in origin.not_used]
    return "\n".join(map(one_line, [*lines, *_histogram(info, statistics.class_counts)]))


def _histogram(info: "DatasetInfo", class_counts: tuple[int, ...]) -> list[str]:
    """Draw a bar for each class; of many classes, only the largest and the smallest."""
    if not info.class_names or not class_counts:
        return ["classes      none"]
    rows = list(zip(info.class_names, class_counts, strict=True))
    lines = [f"classes      {len(rows):,}, {min(class_counts):,} to {max(class_counts):,} images each"]
    if len(rows) > SHOWN_CLASSES:
        ranked = sorted(rows, key=lambda row: -row[1])
        rows = [*ranked[: SHOWN_CLASSES // 2], *ranked[-SHOWN_CLASSES // 2 :]]
    width, largest = max(len(name) for name, _ in rows), max(1, *class_counts)
    return lines + [f"  {name:<{width}} {count:>9,} {'█' * round(BAR_WIDTH * count / largest)}" for name, count in rows]


def _shape(info: "DatasetInfo") -> str:
    if info.image_size:
        return f"{info.image_size}×{info.image_size} {'gray' if info.channels == 1 else 'RGB'}"
    if (shape := info.sample_shape) is not None:
        return f"latents of {'×'.join(map(str, shape))}"
    return "prompts" if info.columns else "classes"


def _dimensions(column: "Column") -> str:
    return f"{column.dtype} {'×'.join(map(str, column.shape)) or 'number'}"


def _counts(info: "DatasetInfo") -> str:
    return " + ".join(f"{count:,} {split}" for split, count in info.splits.items())
