"""`progdistill evaluate`: compares a checkpoint's samples, and the undistilled model's, with real images."""

import argparse
from typing import TYPE_CHECKING, get_args

from pydantic import JsonValue

from progdistill.api.model import MOST_IMAGES, MOST_STEPS, Model
from progdistill.cli.common import (
    Verbs,
    add_guidance_scale_argument,
    add_reference_argument,
    add_sampling_steps_argument,
    add_verb,
    print_json,
    store_of,
)
from progdistill.errors import UsageError, require_between
from progdistill.escape import printable
from progdistill.features.config import EvaluatorName

if TYPE_CHECKING:
    from progdistill.evaluation.measurement import EvaluationRecord
    from progdistill.registry.evaluations import Measurement


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    text = "compare a checkpoint's samples with the real images"
    parser = add_verb(
        verbs, "evaluate", _evaluate, text, examples="progdistill evaluate DistillFlow/RUN/4 --samples 10000"
    )
    add_reference_argument(parser)
    text = "images to sample (default: as in the checkpoint's run)"
    parser.add_argument("--samples", type=int, metavar="N", help=text)
    add_sampling_steps_argument(parser)
    add_guidance_scale_argument(parser, "guidance scale, 1 or more")
    text = "dataset with the real images (default: the one it was trained on)"
    parser.add_argument("--dataset", metavar="NAME", help=text)
    text = f"network whose features are compared: {', '.join(get_args(EvaluatorName))}"
    parser.add_argument("--evaluator", metavar="NAME", help=f"{text} (default: as in its run)")
    text = "path or URI of inception-2015-12-05.pt, required once per store; implies --evaluator inception"
    parser.add_argument("--inception-weights", metavar="FILE", help=f"{text} (default: $PROGDISTILL_INCEPTION)")
    text = "SHA-256 of the evaluator's network (default: of the official Inception file)"
    parser.add_argument("--weights-sha256", "--inception-sha256", metavar="HEX", help=text)
    text = "compare with the mu and sigma in this .npz instead of those of the dataset"
    parser.add_argument("--reference-statistics", metavar="FILE", help=text)
    parser.add_argument("--no-baselines", action="store_true", help="do not measure the undistilled model")


def _evaluate(args: argparse.Namespace) -> int:
    require_between("--sampling-steps", args.sampling_steps, 1, MOST_STEPS)
    require_between("--samples", args.samples, 2, MOST_IMAGES)
    record = Model(store_of(args), args.reference).evaluate(
        sampling_steps=args.sampling_steps, dataset=args.dataset, baselines=not args.no_baselines, **_changes(args)
    )
    if args.json:
        print_json(record.model_dump(mode="json"))
    else:
        print(printable(_described(record)))
    return 0


def _changes(args: argparse.Namespace) -> dict[str, JsonValue]:
    """The settings given on the command line."""
    weights = args.inception_weights
    if weights is not None and args.evaluator not in (None, "inception"):
        raise UsageError(f"--inception-weights cannot be used with --evaluator {args.evaluator}")
    named = {
        "samples": args.samples,
        "guidance_scale": args.guidance_scale,
        "evaluator": args.evaluator or (None if weights is None else "inception"),
        "weights": weights,
        "weights_sha256": args.weights_sha256,
        "reference_statistics": args.reference_statistics,
    }
    return {name: value for name, value in named.items() if value is not None}


def _described(record: "EvaluationRecord") -> str:
    rows = (
        ("this checkpoint, DDIM", record.distilled),
        ("undistilled, DDIM", record.baseline_ddim),
        ("undistilled, ancestral", record.baseline_ancestral),
        ("this checkpoint, ancestral", record.distilled_ancestral),
    )
    lines = [f"{record.checkpoint_id[:12]} at {record.sampling_steps} sampling steps"]
    lines += [f"  {name:<27}{_figures(found)}" for name, found in rows if found is not None]
    return "\n".join(lines)


def _figures(measurement: "Measurement") -> str:
    m = measurement
    extras = (
        ("kid" if m.distance_name.startswith("fid_") else "kernel distance", m.kernel_distance),
        ("precision", m.precision),
        ("recall", m.recall),
        ("inception score" if m.distance_name.startswith("fid_") else "class score", m.inception_score),
    )
    shown = [f"{m.distance_name} {m.distance:.4g}"]
    shown += [f"{name} {value:.3g}" for name, value in extras if value is not None]
    scale = m.spec.guidance_scale
    guided = "" if scale is None else f" with guidance scale {scale:g}"
    return " · ".join([*shown, f"{m.spec.samples:,} samples{guided}"])
