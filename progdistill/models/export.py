"""Exports a checkpoint: to diffusers, to ONNX, or as it is, each with a model card."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from progdistill.models.config import DenoiserConfig
from progdistill.registry.checkpoint import CheckpointManifest, fetch_weights, list_ids, load_manifest
from progdistill.registry.evaluations import MeasurementSpec, evaluations_of
from progdistill.store.base import Store
from progdistill.store.documents import encode

ExportFormat = Literal["diffusers", "safetensors", "onnx"]

MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "weights.safetensors"
_ONNX_FILE = "denoising_step.onnx"


def export_checkpoint(
    store: Store, manifest: CheckpointManifest, form: ExportFormat, out: Path, guidance_scale: float | None
) -> float | None:
    """Write a checkpoint for other programs, with a model card (README.md) that shows how to use it.

    Args:
        store: holds the checkpoint.
        manifest: of the checkpoint.
        form: `diffusers` (a pipeline that stock diffusers loads), `safetensors` or `onnx`.
        out: folder to write into.
        guidance_scale: to build into a guided student where the format takes none as an input.

    Returns:
        The guidance scale that is built in, None where there is none.

    Raises:
        UsageError: the format cannot express the model.
    """
    _write(store, manifest, form, out, guidance_scale)
    (out / "README.md").write_text(_model_card(store, manifest, form, guidance_scale), encoding="utf-8")
    return guidance_scale if form == "diffusers" else None


def _write(
    store: Store, manifest: CheckpointManifest, form: ExportFormat, out: Path, guidance_scale: float | None
) -> None:
    """Write everything but the card."""
    from progdistill.models.load import load_denoiser

    if form == "diffusers":
        from progdistill.models.diffusers_export import export_diffusers

        export_diffusers(load_denoiser(store, manifest), out, guidance_scale)
        return
    weights = fetch_weights(store, manifest)
    out.mkdir(parents=True, exist_ok=True)
    if form == "onnx":
        from progdistill.models.onnx_export import export_onnx

        export_onnx(load_denoiser(store, manifest), out / _ONNX_FILE)
    else:
        shutil.copyfile(weights, out / WEIGHTS_FILE)
        (out / MANIFEST_FILE).write_bytes(encode(manifest))


def _model_card(store: Store, manifest: CheckpointManifest, form: ExportFormat, guidance_scale: float | None) -> str:
    environment = Environment(
        loader=PackageLoader("progdistill.models"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md.j2").render(
        checkpoint_id=manifest.id,
        kind=manifest.identity.kind,
        dataset_name=manifest.provenance.dataset_name,
        config=DenoiserConfig.of(manifest.identity),
        sampling_steps=manifest.identity.sampling_steps,
        form=form,
        guidance_scale=guidance_scale,
        lineage=[_generation(ancestor) for ancestor in reversed(list(_ancestry(store, manifest)))],
        figures=list(_figures(store, manifest)),
        files={"manifest": MANIFEST_FILE, "weights": WEIGHTS_FILE, "onnx": _ONNX_FILE},
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
    for record in evaluations_of(store, manifest.id):
        if not record.spec.trial:
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
