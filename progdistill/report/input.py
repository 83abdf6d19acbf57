"""Everything a report is made from, as one document that is kept beside it: no torch."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import Field, JsonValue

from progdistill.evaluation.measurement import EvaluationRecord, Neighbors
from progdistill.models_base import Frozen
from progdistill.registry.checkpoint import CheckpointManifest, blob_key
from progdistill.registry.evaluations import Measurement
from progdistill.store.base import Store

INPUT_FILE = "input.json"


class SampleImages(Frozen, ser_json_bytes="base64", val_json_bytes="base64"):
    """A few samples as one PNG, one image below the other."""

    png: bytes = Field(repr=False)
    images: int
    labels: tuple[int, ...] | None = None


class NeighborImages(Frozen, ser_json_bytes="base64", val_json_bytes="base64"):
    """Samples as one PNG, each followed by its nearest training images."""

    png: bytes = Field(repr=False)
    samples: int
    nearest: int
    mirrored: bool = Field(default=False, description="whether training images count in both orientations")


class LossPoint(Frozen):
    """The mean training loss around an update."""

    update: int
    loss: float


class StageEntry(Frozen, ser_json_bytes="base64", val_json_bytes="base64"):
    """One checkpoint of the run: how it was trained, and how near its samples come to the real images."""

    sampling_steps: int
    id: str
    parent: str | None
    kind: str
    distance: float | None = None
    distance_name: str | None = None
    inception_score: float | None = None
    baseline_ddim: float | None = Field(
        default=None, description="distance of the undistilled model with DDIM"
    )
    baseline_ancestral: float | None = Field(default=None, description="and with ancestral sampling")
    distilled_ancestral: float | None = Field(
        default=None, description="distance of this checkpoint with ancestral sampling"
    )
    kernel_distance: float | None = None
    precision: float | None = None
    recall: float | None = None
    baseline_ancestral_gamma: float | None = Field(
        default=None, description="log-scale position of the baseline's variance between its bounds"
    )
    evaluated_samples: int | None = Field(default=None, description="images behind each distance")
    guidance: float | None = Field(default=None, description="weight that samples were guided with")
    not_evaluated_reason: str | None = None
    updates: int | None = None
    images: int | None = Field(default=None, description="training images seen")
    seconds: float | None = Field(default=None, description="wall-clock seconds of training")
    images_per_second: float | None = None
    sampling_seconds: float | None = Field(
        default=None, description="of this stage's measurements, baselines included"
    )
    evaluation_seconds: float | None = Field(
        default=None, description="features and statistics of those samples"
    )
    device: str | None = None
    created_by: str | None = Field(
        default=None, description="run that trained it, which may be an earlier one"
    )
    samples: SampleImages | None = None
    baseline_ddim_samples: SampleImages | None = None
    neighbors: NeighborImages | None = None
    loss_curve: tuple[LossPoint, ...] = ()


class Timings(Frozen):
    """Where a run's wall-clock time went, in seconds."""

    total_seconds: float
    training_seconds: float
    sampling_seconds: float
    evaluation_seconds: float
    overhead_seconds_per_stage: float = Field(description="outside training, sampling and evaluation")
    stored_seconds: float = Field(
        default=0.0, description="training and measuring that the store held already, in none of the others"
    )


class ReportInput(Frozen):
    """A run as its report tells it; `checkpoints` go from most sampling steps to fewest."""

    schema_version: Literal[1] = 1
    run_id: str
    flow: str = "DistillFlow"
    created_at: datetime
    dataset: str
    dataset_fingerprint: str
    class_names: tuple[str, ...] = ()
    evaluator: str
    evaluator_id: str | None = None
    seed: int
    code_version: str
    store: str
    configuration: dict[str, JsonValue]
    checkpoints: tuple[StageEntry, ...]
    timings: Timings | None = None
    price_per_hour: float | None = Field(
        default=None, ge=0, description="of the machine, in any currency; None where nobody said"
    )
    lineage: str = Field(default="", description="the tree of teachers and students, drawn in text")


SHOWN_FIGURES = {"updates", "images", "seconds", "images_per_second"}
"""Of what a checkpoint's training took."""


def stage_entry(
    store: Store,
    manifest: CheckpointManifest,
    record: EvaluationRecord,
    loss_curve: Sequence[LossPoint] = (),
) -> StageEntry:
    """What the report says of one checkpoint, with its sample images fetched from the store."""
    figures, own = manifest.provenance.figures, record.distilled
    ancestral = record.baseline_ancestral
    return StageEntry(
        sampling_steps=record.sampling_steps,
        id=manifest.id,
        parent=manifest.identity.parent,
        kind=manifest.identity.kind,
        distance=None if own is None else own.distance,
        distance_name=None if own is None else own.distance_name,
        inception_score=None if own is None else own.inception_score,
        kernel_distance=None if own is None else own.kernel_distance,
        precision=None if own is None else own.precision,
        recall=None if own is None else own.recall,
        evaluated_samples=None if own is None else own.spec.samples,
        guidance=None if own is None else own.spec.guidance_scale,
        baseline_ddim=_distance(record.baseline_ddim),
        baseline_ancestral=_distance(record.baseline_ancestral),
        baseline_ancestral_gamma=None if ancestral is None else ancestral.spec.gamma,
        distilled_ancestral=_distance(record.distilled_ancestral),
        not_evaluated_reason=record.not_evaluated_reason,
        sampling_seconds=sum(m.sampling_seconds for m in record.measurements),
        evaluation_seconds=sum(m.evaluation_seconds for m in record.measurements),
        device=manifest.provenance.device,
        created_by=manifest.provenance.created_by,
        samples=_samples(store, own),
        baseline_ddim_samples=_samples(store, record.baseline_ddim),
        neighbors=_neighbors(store, record.neighbors),
        loss_curve=tuple(loss_curve),
        **({} if figures is None else figures.model_dump(include=SHOWN_FIGURES)),
    )


def _distance(measurement: Measurement | None) -> float | None:
    return None if measurement is None else measurement.distance


def _samples(store: Store, measurement: Measurement | None) -> SampleImages | None:
    if measurement is None or measurement.shown is None:
        return None
    shown = measurement.shown
    path = store.download(blob_key(shown.sha256), shown.file)
    return SampleImages(png=path.read_bytes(), images=shown.images, labels=shown.labels)


def _neighbors(store: Store, found: Neighbors | None) -> NeighborImages | None:
    if found is None:
        return None
    path = store.download(blob_key(found.sheet_sha256), found.file)
    return NeighborImages(
        png=path.read_bytes(), samples=found.samples, nearest=found.nearest, mirrored=found.mirrored
    )


def steps_text(sampling_steps: int) -> str:
    """`1 step`, `4 steps`, `8,192 steps`."""
    return f"{sampling_steps:,} {'step' if sampling_steps == 1 else 'steps'}"


def number(value: float | None) -> str:
    """Three significant digits, whole above a thousand, a dash for nothing."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")


def distance_label(distance_name: str | None) -> str:
    """The true name of a distance as an axis is labeled: `frechet_digits_classifier` is no FID."""
    name = distance_name or "distance"
    if name.startswith("frechet_"):
        return f"Fréchet distance ({name.removeprefix('frechet_').replace('_', ' ')} features)"
    if name.startswith("fid_"):
        return f"FID ({name.removeprefix('fid_').replace('_', ' ')})"
    return name.replace("_", " ")


def distance_name_of(run: ReportInput) -> str | None:
    """The name of the distance that the run's checkpoints were measured in."""
    return next((stage.distance_name for stage in run.checkpoints if stage.distance_name), None)


def counts_text(run: ReportInput) -> str:
    """How many samples stand behind each of the run's distances, and how they are guided; else empty.

    Such as `1,000 samples`, or `1,000 samples guided with w = 2`.
    """
    counts = sorted({stage.evaluated_samples for stage in run.checkpoints if stage.evaluated_samples})
    weights = sorted({stage.guidance for stage in run.checkpoints if stage.guidance})
    guided = f" guided with w = {' or '.join(f'{weight:g}' for weight in weights)}" if weights else ""
    return " or ".join(f"{count:,}" for count in counts) + f" samples{guided}" if counts else ""
