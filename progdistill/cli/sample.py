"""`progdistill sample`: draws samples from a checkpoint."""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from progdistill.api.model import Model, Samples
from progdistill.cli.common import (
    Verbs,
    add_guidance_scale_argument,
    add_reference_argument,
    add_sampling_steps_argument,
    add_verb,
    check_output,
    print_json,
    store_of,
    writing,
)
from progdistill.diffusion.names import SamplerName
from progdistill.errors import UsageError
from progdistill.progress import Progress
from progdistill.training.guidance import guidance_scale_for

if TYPE_CHECKING:
    from progdistill.images import Pixels

ENDINGS: Final = (".png", ".parquet")


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    examples = """
        progdistill sample DistillFlow/RUN/4 --out grid.png
        progdistill sample DistillFlow/RUN/4 --count 40 --titles --out classes.png
        progdistill sample production --count 50000 --out images.parquet
        """
    text = "draw samples from a checkpoint, as a PNG grid or a Parquet file"
    parser = add_verb(verbs, "sample", _sample, text, examples=examples)
    add_reference_argument(parser)
    parser.add_argument("--count", type=int, default=64, metavar="N", help="images (default: %(default)s)")
    text = ".png for a grid, .parquet for separate images (default: %(default)s)"
    parser.add_argument("--out", type=Path, default=Path("grid.png"), metavar="FILE", help=text)
    parser.add_argument("--sampler", choices=[str(name) for name in SamplerName], default=str(SamplerName.DDIM))
    add_sampling_steps_argument(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the noise (default: %(default)s)")
    parser.add_argument("--class", dest="class_label", type=int, metavar="K", help="sample class number K only")
    text = "for models of text: a file with one prompt per line; image i draws prompt i mod their number"
    parser.add_argument("--prompts", type=Path, metavar="FILE", help=text)
    text = "in a .png: a row for each class or prompt, below its name"
    parser.add_argument("--titles", action="store_true", help=text)
    parser.add_argument("--gamma", type=float, metavar="G", help="ancestral variance, 0 to 1 (default: 0.3)")
    add_guidance_scale_argument(parser, "guidance scale, 1 or more")
    text = "images sampled at once (default: %(default)s)"
    parser.add_argument("--batch-size", type=int, default=250, metavar="N", help=text)
    parser.add_argument("--no-clip", action="store_true", help="do not clip x̂ to [−1, 1]")


def _sample(args: argparse.Namespace) -> int:
    if args.out.suffix not in ENDINGS:
        raise UsageError(f"--out {args.out}: give a file name that ends in {' or '.join(ENDINGS)}")
    if args.titles and args.out.suffix != ".png":
        raise UsageError("--titles is for pictures: give --out a name that ends in .png, or leave it out")
    model = Model(store_of(args), args.reference)
    check_output("--out", args.out)
    prompts = [] if args.prompts is None else _prompts(args.prompts)
    batches, labels = model.batches(
        args.count,
        seed=args.seed,
        sampling_steps=args.sampling_steps,
        sampler=args.sampler,
        guidance_scale=args.guidance_scale,
        gamma=args.gamma,
        class_label=args.class_label,
        clip=not args.no_clip,
        batch_size=args.batch_size,
        prompts=prompts,
    )
    titles = model.titles(args.count, labels, prompts) if args.titles else None
    if args.titles and titles is None:
        raise UsageError("--titles: this model has neither prompts nor classes; leave it out")
    steps = args.sampling_steps or model.sampling_steps
    with Progress(f"{args.sampler} × {steps}", total=args.count, unit="images") as progress:
        _save(args.out, _counted(batches, progress), labels, titles)
    facts = {
        "out": str(args.out),
        "checkpoint": model.id,
        "sampler": args.sampler,
        "sampling_steps": steps,
        "images": args.count,
        "guidance_scale": guidance_scale_for(model.manifest, args.guidance_scale),
        "seed": args.seed,
    }
    if args.json:
        print_json(facts)
    else:
        print(f"{args.out}: {args.count} images of {model.id[:12]}, {args.sampler} × {steps}")
    return 0


def _prompts(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--prompts {path} cannot be read: {error}") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UsageError(f"--prompts {path} has no prompt: write one per line")
    return prompts


def _counted(batches: "Iterable[Pixels]", progress: Progress) -> "Iterator[Pixels]":
    for batch in batches:
        yield batch
        progress.advance(len(batch))


def _save(out: Path, batches: "Iterable[Pixels]", labels: list[int] | None, titles: list[str] | None) -> None:
    import numpy as np

    from progdistill.images import encode_png, write_parquet
    from progdistill.store.files import atomic_path

    if out.suffix == ".parquet":
        with writing("--out", out), atomic_path(out) as draft:
            write_parquet(draft, batches, labels)
    else:
        samples = Samples(np.concatenate(list(batches)), labels, titles)
        picture = encode_png(samples.grid(titled=titles is not None))
        with writing("--out", out):
            out.write_bytes(picture)
