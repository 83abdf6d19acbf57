"""`progdistill sample`: draws samples from a checkpoint."""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from progdistill.api import MOST_IMAGES, MOST_STEPS, Model
from progdistill.cli.common import (
    add_guidance_scale_argument,
    add_json_argument,
    add_sampling_steps_argument,
    add_store_argument,
    check_output,
    print_json,
    store_of,
    writing,
)
from progdistill.diffusion.names import SamplerName
from progdistill.errors import UsageError, require_between
from progdistill.progress import Progress
from progdistill.training.guidance import guidance_scale_for

if TYPE_CHECKING:
    from progdistill.images import Pixels

ENDINGS: Final = (".png", ".parquet")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    text = "draw samples from a checkpoint, as a PNG grid or a Parquet file"
    parser = subparsers.add_parser("sample", help=text, description=text)
    parser.add_argument("reference", metavar="REF", help="id or prefix, alias, or Flow/run/steps")
    parser.add_argument("--count", type=int, default=64, metavar="N", help="images (default: %(default)s)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("grid.png"),
        metavar="FILE",
        help=".png for a grid, .parquet for separate images (default: %(default)s)",
    )
    parser.add_argument("--sampler", choices=[str(name) for name in SamplerName], default=str(SamplerName.DDIM))
    add_sampling_steps_argument(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the noise (default: %(default)s)")
    parser.add_argument("--class", dest="class_label", metavar="K", help="sample class number K only")
    parser.add_argument("--gamma", type=float, metavar="G", help="variance of ancestral sampling, 0 to 1")
    add_guidance_scale_argument(parser, "guidance scale, 1 or more")
    parser.add_argument(
        "--batch-size", type=int, default=250, metavar="N", help="images sampled at once (default: %(default)s)"
    )
    parser.add_argument("--no-clip", action="store_true", help="do not clip x̂ to [−1, 1]")
    add_store_argument(parser)
    add_json_argument(parser)
    parser.set_defaults(run=_sample)


def _sample(args: argparse.Namespace) -> int:
    _check(args)
    model = Model(store_of(args), args.reference)
    steps = model.steps_for(args.sampling_steps)
    guidance_scale = guidance_scale_for(model.manifest, args.guidance_scale)
    label = _class_label(args.class_label, model.config.network.num_classes)
    check_output("--out", args.out)
    batches, labels = model.batches(
        args.count,
        seed=args.seed,
        sampling_steps=steps,
        sampler=args.sampler,
        guidance_scale=guidance_scale,
        gamma=args.gamma,
        class_label=label,
        clip=not args.no_clip,
        batch_size=args.batch_size,
    )
    with Progress(f"{args.sampler} × {steps}", total=args.count, unit="images") as progress:
        images = _save(args.out, _counted(batches, progress), labels)
    facts = {
        "out": str(args.out),
        "checkpoint": model.id,
        "sampler": args.sampler,
        "sampling_steps": steps,
        "images": images,
        "guidance_scale": guidance_scale,
        "seed": args.seed,
    }
    if args.json:
        print_json(facts)
    else:
        print(f"{args.out}: {images} images of {model.id[:12]}, {args.sampler} × {steps}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raise UsageError for options that are invalid with any checkpoint."""
    require_between("--count", args.count, 1, MOST_IMAGES)
    require_between("--sampling-steps", args.sampling_steps, 1, MOST_STEPS)
    require_between("--batch-size", args.batch_size, 1, MOST_IMAGES)
    require_between("--gamma", args.gamma, 0, 1)
    if args.gamma is not None and args.sampler != SamplerName.ANCESTRAL:
        raise UsageError(f"--gamma needs --sampler {SamplerName.ANCESTRAL}; {args.sampler} has no variance")
    if args.out.suffix not in ENDINGS:
        raise UsageError(f"--out {args.out}: give a file name that ends in {' or '.join(ENDINGS)}")


def _counted(batches: "Iterable[Pixels]", progress: Progress) -> "Iterator[Pixels]":
    for batch in batches:
        yield batch
        progress.advance(len(batch))


def _save(out: Path, batches: "Iterable[Pixels]", labels: list[int] | None) -> int:
    """Write images in the format of the file's extension; return their number."""
    import numpy as np

    from progdistill.images import encode_png, grid, readable_scale, write_parquet
    from progdistill.store.files import atomic_path

    if out.suffix == ".parquet":
        with writing("--out", out), atomic_path(out) as draft:
            return write_parquet(draft, batches, labels)
    images = np.concatenate(list(batches))
    picture = encode_png(grid(images, scale=readable_scale(images.shape[1])))
    with writing("--out", out):
        out.write_bytes(picture)
    return len(images)


def _class_label(text: str | None, num_classes: int) -> int | None:
    if text is None:
        return None
    if num_classes == 0:
        raise UsageError(f"--class {text}: this model is not class-conditional")
    if not text.isdecimal() or int(text) >= num_classes:
        raise UsageError(f"--class {text}: give a class from 0 to {num_classes - 1}")
    return int(text)
