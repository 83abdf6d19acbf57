"""Exports a checkpoint: to diffusers, to ComfyUI, as a LoRA, to ONNX, or as it is, each with a model card."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from progdistill.errors import UsageError
from progdistill.escape import markdown
from progdistill.models.config import DenoiserConfig
from progdistill.registry.checkpoint import CheckpointManifest, base_of, fetch_weights, list_manifests
from progdistill.registry.evaluations import MeasurementSpec, evaluations_of
from progdistill.registry.pipeline import fetch_pipeline, load_pipeline
from progdistill.store.base import Store
from progdistill.store.documents import encode

logger = logging.getLogger(__name__)

ExportFormat = Literal["diffusers", "lora", "comfyui", "safetensors", "onnx"]

MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "weights.safetensors"
PIPELINE_FILE = "pipeline.json"
PIPELINE_FOLDER = "pipeline"
_ONNX_FILE = "denoising_step.onnx"
_SHOWN_STEPS, _COMPARED_STEPS = 50, 4
"""Of a latent model that takes any number of steps: in its card, and when it is compared with the stock pipeline."""


class LatentExport(NamedTuple):
    """What the card of a latent model says of its use."""

    file: str
    pipeline: str
    family: str
    scheduler: str
    call: dict[str, Any]
    difference: float | None
    """From the stock pipeline, as it was measured; None where no pipeline was run."""


def export_checkpoint(
    store: Store, manifest: CheckpointManifest, form: ExportFormat, out: Path, guidance_scale: float | None
) -> float | None:
    """Write a checkpoint for other programs, with a model card (README.md) that shows how to use it.

    Args:
        store: holds the checkpoint.
        manifest: of the checkpoint.
        form: `diffusers` (a pipeline that stock diffusers loads), `lora` (the adapter alone), `comfyui` (one file for
            Stable Diffusion and SDXL), `safetensors` or `onnx`.
        out: folder to write into.
        guidance_scale: to build into a guided student where the format takes none as an input.

    Returns:
        The guidance scale that is built in, None where there is none.

    Raises:
        UsageError: the format cannot express the model.
        LostInvariantError: the stock pipeline draws another image than the model.
    """
    latent, difference = _write(store, manifest, form, out, guidance_scale)
    (out / "README.md").write_text(_model_card(store, manifest, form, guidance_scale, latent), encoding="utf-8")
    if difference is not None:
        logger.info("stock diffusers draws the same from the same noise, up to %.2g", difference)
    is_built_in = form == "comfyui" or (form == "diffusers" and latent is None)
    return guidance_scale if is_built_in else None


def _write(
    store: Store, manifest: CheckpointManifest, form: ExportFormat, out: Path, guidance_scale: float | None
) -> tuple[LatentExport | None, float | None]:
    """Write everything but the card; return what it says of a latent model, and the difference from stock diffusers."""
    from progdistill.models.load import load_denoiser

    is_latent = DenoiserConfig.of(manifest.identity).pipeline is not None
    if form in ("lora", "comfyui") or (form == "diffusers" and is_latent):
        latent = _write_latent(store, manifest, form, out, guidance_scale)
        return latent, latent.difference
    if form == "diffusers":
        from progdistill.models.diffusers_export import export_diffusers

        return None, export_diffusers(load_denoiser(store, manifest), out, guidance_scale)
    weights = fetch_weights(store, manifest)
    out.mkdir(parents=True, exist_ok=True)
    if form == "onnx":
        from progdistill.models.onnx_export import export_onnx

        export_onnx(load_denoiser(store, manifest), out / _ONNX_FILE)
    else:
        shutil.copyfile(weights, out / WEIGHTS_FILE)
        (out / MANIFEST_FILE).write_bytes(encode(manifest))
        _write_pipeline(store, manifest, out)
    return None, None


def _write_pipeline(store: Store, manifest: CheckpointManifest, out: Path) -> None:
    """Beside a checkpoint of a latent model: what else it needs, for `import`."""
    if pipeline := manifest.identity.architecture.get("pipeline"):
        shutil.copytree(fetch_pipeline(store, str(pipeline)), out / PIPELINE_FOLDER, copy_function=shutil.copyfile)
        (out / PIPELINE_FILE).write_bytes(encode(load_pipeline(store, str(pipeline))))


def _write_latent(
    store: Store, manifest: CheckpointManifest, form: ExportFormat, out: Path, guidance_scale: float | None
) -> LatentExport:
    """Write a latent model, and compare it with the stock pipeline."""
    from safetensors.torch import load_file

    from progdistill.models.comfyui_export import export_comfyui
    from progdistill.models.load import load_denoiser
    from progdistill.models.lora_export import export_lora, lora_difference, lora_file_name
    from progdistill.models.pipeline_export import export_pipeline, largest_difference, load_for_comparison
    from progdistill.models.pipeline_scheduler import call_arguments, stock_scheduler

    config = DenoiserConfig.of(manifest.identity)
    if config.pipeline is None:
        raise UsageError(f"--format {form} is for latent models of diffusers: export diffusers, safetensors or onnx")
    facts = load_pipeline(store, config.pipeline).facts
    steps = manifest.identity.sampling_steps
    shown, compared = steps or _SHOWN_STEPS, steps or _COMPARED_STEPS
    scheduler = type(stock_scheduler(config, shown)).__name__
    denoiser, kept = load_denoiser(store, manifest), fetch_pipeline(store, config.pipeline)
    difference, file = None, ""
    if form == "diffusers":
        export_pipeline(denoiser, kept, facts, out, compared)
        difference = largest_difference(denoiser, load_for_comparison(out), facts, compared, guidance_scale)
    elif form == "comfyui":
        file = f"{manifest.id[:12]}.safetensors"
        export_comfyui(denoiser, out / file, guidance_scale)
    else:
        file = lora_file_name(manifest.id[:12], shown)
        export_lora(config, load_file(fetch_weights(store, manifest)), facts, out / file, shown)
        base = load_denoiser(store, base_of(store, manifest))
        difference = lora_difference(denoiser, base, kept, facts, out / file, compared)
    call = call_arguments(config, facts, shown, guidance_scale)
    return LatentExport(file, facts.class_name, facts.family, scheduler, call, difference)


def _model_card(
    store: Store,
    manifest: CheckpointManifest,
    form: ExportFormat,
    guidance_scale: float | None,
    latent: LatentExport | None,
) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

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
        dataset_name=markdown(manifest.provenance.dataset_name),
        config=DenoiserConfig.of(manifest.identity),
        sampling_steps=manifest.identity.sampling_steps,
        form=form,
        latent=latent,
        guidance_scale=guidance_scale,
        lineage=[_generation(ancestor) for ancestor in reversed(list(_ancestry(store, manifest)))],
        figures=list(_figures(store, manifest)),
        files={"manifest": MANIFEST_FILE, "weights": WEIGHTS_FILE, "onnx": _ONNX_FILE},
    )


def _ancestry(store: Store, manifest: CheckpointManifest) -> Iterator[CheckpointManifest]:
    """The model, its teacher, its teacher's teacher, as far back as the store goes."""
    yield manifest
    while (parent := manifest.identity.parent) is not None:
        manifest = next(list_manifests(store, [], [parent]), manifest)
        if manifest.id != parent:
            return  # It is not in the store, or cannot be read.
        yield manifest


def _generation(manifest: CheckpointManifest) -> str:
    identity, figures = manifest.identity, manifest.provenance.figures
    steps = f"{identity.sampling_steps} steps" if identity.sampling_steps else "any number of steps"
    training = f", {figures.updates:,} updates on {figures.images:,} images" if figures else ""
    learned = "" if identity.objective in (None, "progressive") else f", objective {markdown(identity.objective)}"
    return f"`{manifest.id[:12]}` {identity.kind}, {steps}, predicts {markdown(identity.prediction)}{learned}{training}"


def _figures(store: Store, manifest: CheckpointManifest) -> Iterator[str]:
    for record in evaluations_of(store, manifest.id, []):
        if not record.spec.trial:
            yield f"{markdown(record.distance_name)} {record.distance:.4g}: {_sampling(record.spec)}"
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
