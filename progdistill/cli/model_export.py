"""`progdistill export`: a checkpoint written for other programs, with a model card."""

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from progdistill.cli.common import (
    add_guidance_scale_argument,
    add_json_argument,
    add_store_argument,
    check_output,
    print_json,
    store_of,
    writing,
)
from progdistill.errors import UsageError
from progdistill.models.config import DenoiserConfig
from progdistill.models.model_card import (
    ModelFacts,
    diffusers_usage,
    onnx_usage,
    render_card,
    safetensors_usage,
)
from progdistill.registry.checkpoint import CheckpointManifest, fetch_weights, list_ids, load_manifest
from progdistill.registry.evaluations import MeasurementSpec, evaluations_of, reported_only
from progdistill.registry.resolve import resolve_reference
from progdistill.store.base import Store
from progdistill.store.documents import encode
from progdistill.training.guidance import guidance_scale_for

if TYPE_CHECKING:
    from progdistill.models.denoiser import Denoiser

MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "weights.safetensors"
ONNX_FILE = "denoising_step.onnx"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    text = "write a checkpoint for other programs, with a model card"
    parser = subparsers.add_parser("export", help=text, description=text)
    parser.add_argument("reference", metavar="REF", help="id or prefix, alias, or Flow/run/steps")
    parser.add_argument("--format", required=True, choices=["diffusers", "safetensors", "onnx"])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder, new or empty")
    add_guidance_scale_argument(parser, "guidance scale to build into a guided student")
    add_store_argument(parser)
    add_json_argument(parser)
    parser.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> int:
    if args.guidance_scale is not None and args.format != "diffusers":
        raise UsageError("--guidance-scale is for --format diffusers; in other formats it stays an input")
    store = store_of(args)
    manifest = resolve_reference(store, args.reference)
    scale = guidance_scale_for(manifest, args.guidance_scale)
    check_output("--out", args.out, folder=True)
    if args.out.is_dir() and any(args.out.iterdir()):
        raise UsageError(f"--out {args.out} holds something already: give a new folder")
    facts = _model_facts(store, manifest, scale, built_in=args.format == "diffusers")
    with writing("--out", args.out):
        usage = _write(store, manifest, facts, args.format, args.out)
        (args.out / "README.md").write_text(render_card(facts, usage), encoding="utf-8")
    built_in = scale if facts.guidance_built_in else None
    if args.json:
        named = {"checkpoint": manifest.id, "format": args.format, "out": str(args.out)}
        print_json({**named, "guidance_scale": built_in})
    else:
        guided = "" if built_in is None else f" with guidance scale {built_in:g} built in"
        print(f"{args.out}: {manifest.id[:12]} as {args.format}{guided}; README.md there shows how to use it")
    return 0


def _write(store: Store, manifest: CheckpointManifest, facts: ModelFacts, form: str, folder: Path) -> str:
    """Write everything but the card, and return the card's section on use."""
    if form == "diffusers":
        from progdistill.models.diffusers_export import check_exportable, export_diffusers

        check_exportable(facts.config, facts.guidance_scale)
        export_diffusers(_denoiser(store, manifest), folder, facts.guidance_scale)
        return diffusers_usage(facts)
    weights = fetch_weights(store, manifest)
    folder.mkdir(parents=True, exist_ok=True)
    if form == "onnx":
        from progdistill.models.onnx_export import export_onnx

        export_onnx(_denoiser(store, manifest), folder / ONNX_FILE)
        return onnx_usage(facts, ONNX_FILE)
    shutil.copyfile(weights, folder / WEIGHTS_FILE)
    (folder / MANIFEST_FILE).write_bytes(encode(manifest))
    return safetensors_usage()


def _denoiser(store: Store, manifest: CheckpointManifest) -> "Denoiser":
    from progdistill.models.denoiser import load_denoiser

    return load_denoiser(store, manifest)


def _model_facts(
    store: Store, manifest: CheckpointManifest, guidance_scale: float | None, *, built_in: bool
) -> ModelFacts:
    return ModelFacts(
        checkpoint_id=manifest.id,
        kind=str(manifest.identity.kind),
        dataset_name=manifest.provenance.dataset_name,
        config=DenoiserConfig.of(manifest.identity),
        sampling_steps=manifest.identity.sampling_steps,
        guidance_scale=guidance_scale,
        guidance_built_in=built_in,
        lineage=[_generation(ancestor) for ancestor in reversed(list(_ancestry(store, manifest)))],
        figures=list(_figures(store, manifest)),
    )


def _ancestry(store: Store, manifest: CheckpointManifest) -> Iterator[CheckpointManifest]:
    """The model, its teacher, its teacher's teacher, as far back as the store goes."""
    held = set(list_ids(store))
    yield manifest
    while (parent := manifest.identity.parent) in held and parent is not None:
        manifest = load_manifest(store, parent)
        yield manifest


def _generation(manifest: CheckpointManifest) -> str:
    identity, figures = manifest.identity, manifest.provenance.figures
    steps = f"{identity.sampling_steps} steps" if identity.sampling_steps else "any number of steps"
    training = f", {figures.updates:,} updates on {figures.images:,} images" if figures else ""
    return f"`{manifest.id[:12]}` {identity.kind}, {steps}, predicts {identity.prediction}{training}"


def _figures(store: Store, manifest: CheckpointManifest) -> Iterator[str]:
    for record in reported_only(evaluations_of(store, manifest.id)):
        yield f"{record.distance_name} {record.distance:.4g}: {_sampling(record.spec)}"
    if figures := manifest.provenance.figures:
        loss = "" if figures.final_loss is None else f", final loss {figures.final_loss:.4g}"
        yield f"trained for {figures.updates:,} updates in {figures.seconds:,.0f} s{loss}"


def _sampling(spec: MeasurementSpec) -> str:
    """How the samples of a measurement were drawn, where it differs from the default of `evaluate`."""
    parts = [f"{spec.sampling_steps} steps of {spec.sampler}"]
    if spec.gamma is not None:
        parts.append(f"γ = {spec.gamma:g}")
    if spec.guidance_scale:
        parts.append(f"guidance scale {spec.guidance_scale:g}")
    if not spec.clip:
        parts.append("without clipping")
    if spec.seed:
        parts.append(f"seed {spec.seed}")
    return ", ".join([*parts, f"{spec.samples} samples"])
