"""Everything a report is made from, as one JSON document beside it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, Self

from pydantic import Field, JsonValue, NonNegativeInt, PositiveInt, model_validator

from progdistill.evaluation.measurement import EvaluationRecord, Neighbors, TeacherComparison
from progdistill.models_base import Frozen
from progdistill.registry.checkpoint import CheckpointManifest
from progdistill.registry.evaluations import ContactSheet, Measurement
from progdistill.store.base import Store
from progdistill.store.layout import blob_key

INPUT_FILE = "input.json"


class SampleImages(Frozen, ser_json_bytes="base64", val_json_bytes="base64"):
    """A contact sheet of samples as PNG."""

    png: bytes = Field(repr=False)
    images: PositiveInt
    labels: tuple[NonNegativeInt, ...] | None = None
    prompts: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _labels_are_of_the_images(self) -> Self:
        if self.labels is not None and len(self.labels) != self.images:
            raise ValueError(f"{len(self.labels)} labels for {self.images} images")
        if self.prompts is not None and len(self.prompts) != self.images:
            raise ValueError(f"{len(self.prompts)} prompts for {self.images} images")
        return self


class NeighborImages(Frozen, ser_json_bytes="base64", val_json_bytes="base64"):
    """A contact sheet as PNG: each sample, followed by its nearest training images."""

    png: bytes = Field(repr=False)
    samples: PositiveInt
    nearest: NonNegativeInt
    mirrored: bool = False  # whether training images were compared in both orientations


class LossPoint(Frozen):
    """The mean training loss around an update."""

    update: int
    loss: float


class StageEntry(Frozen, ser_json_bytes="base64", val_json_bytes="base64"):
    """One checkpoint of the run: how it was trained, and how close its samples are to the real images."""

    sampling_steps: int
    id: str
    parent: str | None
    kind: str
    distance: float | None = None
    distance_name: str | None = None
    inception_score: float | None = None
    baseline_ddim: float | None = None  # distance of the undistilled model with DDIM
    baseline_ancestral: float | None = None  # distance of the undistilled model with ancestral sampling
    distilled_ancestral: float | None = None  # distance of this checkpoint with ancestral sampling
    kernel_distance: float | None = None
    precision: float | None = None
    recall: float | None = None
    baseline_ancestral_gamma: float | None = None  # log-scale position of its variance between the bounds
    evaluated_samples: int | None = None  # behind each distance
    guidance_scale: float | None = None
    not_evaluated_reason: str | None = None
    updates: int | None = None
    images: int | None = None  # training images seen
    seconds: float | None = None  # wall-clock time of training
    images_per_second: float | None = None
    model_flops_utilization: float | None = None  # share of the rate of one large product of matrices on the device
    sampling_seconds: float | None = None  # of all measurements, baselines included
    evaluation_seconds: float | None = None  # features and statistics of those samples
    device: str | None = None
    created_by: str | None = None  # run that trained it; may be an earlier one
    samples: SampleImages | None = None
    baseline_ddim_samples: SampleImages | None = None
    neighbors: NeighborImages | None = None
    to_teacher: float | None = None  # root mean square difference to the undistilled model's images, same noise
    teacher_itself: float | None = None  # that of the undistilled model at as many steps
    teacher_steps: int | None = None  # of the undistilled model's images
    frechet_to_teacher: float | None = None  # Fréchet distance to those images
    frechet_teacher_itself: float | None = None  # that of the undistilled model at as many steps
    diversity: float | None = None  # root mean square difference between images of one prompt or class
    teacher_diversity: float | None = None
    clip_score: float | None = None  # 100 × mean cosine of an image and its prompt
    teacher_clip_score: float | None = None
    objective: str | None = None  # what a student learned from its teacher
    loss_curve: tuple[LossPoint, ...] = ()


class Timings(Frozen):
    """Where a run's wall-clock time went, in seconds."""

    total_seconds: float
    training_seconds: float
    sampling_seconds: float
    evaluation_seconds: float
    overhead_seconds_per_stage: float  # outside training, sampling and evaluation
    stored_seconds: float = 0.0  # training and evaluation found in the store; in none of the others


class ReportInput(Frozen):
    """A run as its report shows it; `checkpoints` go from most sampling steps to fewest."""

    schema_version: Literal[2] = 2
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
    price_per_hour: float | None = Field(default=None, ge=0)  # of one machine, in any currency
    lineage: str = ""  # the tree of teachers and students as text

    def evaluation_setting(self, name: str) -> JsonValue:
        """Return the value of a setting of the evaluation, None if it is not recorded."""
        settings = self.configuration.get("evaluation")
        return settings.get(name) if isinstance(settings, dict) else None


_TRAINING_FIELDS = {"updates", "images", "seconds", "images_per_second", "model_flops_utilization"}
_METRICS = {"distance", "distance_name", "inception_score", "kernel_distance", "precision", "recall"}


_SHARED = ("teacher_steps", "diversity", "teacher_diversity", "clip_score", "teacher_clip_score")


def stage_entry(
    store: Store, manifest: CheckpointManifest, record: EvaluationRecord, loss_curve: Sequence[LossPoint] = ()
) -> StageEntry:
    """Return one checkpoint's entry in the report; its sample images are read from the store."""
    compared = record.to_teacher
    figures, own, ancestral = manifest.provenance.figures, record.distilled, record.baseline_ancestral
    return StageEntry(
        sampling_steps=record.sampling_steps,
        id=manifest.id,
        parent=manifest.identity.parent,
        kind=manifest.identity.kind,
        evaluated_samples=None if own is None else own.spec.samples,
        guidance_scale=None if own is None else own.spec.guidance_scale,
        baseline_ddim=_distance(record.baseline_ddim),
        baseline_ancestral=_distance(ancestral),
        baseline_ancestral_gamma=None if ancestral is None else ancestral.spec.gamma,
        distilled_ancestral=_distance(record.distilled_ancestral),
        not_evaluated_reason=record.not_evaluated_reason,
        sampling_seconds=sum(m.sampling_seconds for m in record.measurements),
        evaluation_seconds=sum(m.evaluation_seconds for m in record.measurements),
        device=manifest.provenance.device,
        created_by=manifest.provenance.created_by,
        samples=_samples(store, own) or (None if compared is None else _sheet(store, compared.shown)),
        baseline_ddim_samples=_samples(store, record.baseline_ddim),
        neighbors=_neighbors(store, record.neighbors),
        **_comparison(compared),
        objective=manifest.identity.objective,
        loss_curve=tuple(loss_curve),
        **({} if figures is None else figures.model_dump(include=_TRAINING_FIELDS)),
        **({} if own is None else own.model_dump(include=_METRICS)),
    )


def _comparison(compared: TeacherComparison | None) -> dict[str, float | None]:
    if compared is None:
        return {}
    return {
        "to_teacher": compared.distance,
        "teacher_itself": compared.teacher_distance,
        "frechet_to_teacher": compared.frechet,
        "frechet_teacher_itself": compared.teacher_frechet,
        **{name: getattr(compared, name) for name in _SHARED},
    }


def _distance(measurement: Measurement | None) -> float | None:
    return None if measurement is None else measurement.distance


def _samples(store: Store, measurement: Measurement | None) -> SampleImages | None:
    return None if measurement is None else _sheet(store, measurement.shown)


def _sheet(store: Store, shown: ContactSheet | None) -> SampleImages | None:
    if shown is None:
        return None
    path = store.download(blob_key(shown.file.sha256), shown.file)
    return SampleImages(png=path.read_bytes(), images=shown.images, labels=shown.labels, prompts=shown.prompts)


def _neighbors(store: Store, found: Neighbors | None) -> NeighborImages | None:
    if found is None:
        return None
    path = store.download(blob_key(found.file.sha256), found.file)
    return NeighborImages(png=path.read_bytes(), samples=found.samples, nearest=found.nearest, mirrored=found.mirrored)


def steps_text(sampling_steps: int) -> str:
    """Format as `1 step`, `4 steps`, `8,192 steps`."""
    return f"{sampling_steps:,} {'step' if sampling_steps == 1 else 'steps'}"


def number(value: float | None) -> str:
    """Format with three significant digits, as an integer from a thousand on, None as a dash."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")


def distance_label(distance_name: str | None) -> str:
    """Return the axis label of a distance; only distances on Inception features are called FID."""
    name = distance_name or "distance"
    if name.startswith("frechet_"):
        return f"Fréchet distance ({name.removeprefix('frechet_').replace('_', ' ')} features)"
    if name.startswith("fid_"):
        return f"FID ({name.removeprefix('fid_').replace('_', ' ')})"
    return name.replace("_", " ")


def distance_name_of(run: ReportInput) -> str | None:
    """Return the name of the distance in which the run's checkpoints were measured, None if none was."""
    return next((stage.distance_name for stage in run.checkpoints if stage.distance_name), None)


def counts_text(run: ReportInput) -> str:
    """Return the samples behind each distance, such as `1,000 samples with guidance scale 2`; empty without any."""
    counts = sorted({stage.evaluated_samples for stage in run.checkpoints if stage.evaluated_samples})
    scales = sorted({stage.guidance_scale for stage in run.checkpoints if stage.guidance_scale})
    guided = f" with guidance scale {' or '.join(f'{scale:g}' for scale in scales)}" if scales else ""
    return " or ".join(f"{count:,}" for count in counts) + f" samples{guided}" if counts else ""
