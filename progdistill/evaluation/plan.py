"""What an evaluation measures: listed once, for the ranks that sample and the one that reports."""

from typing import NamedTuple

from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.names import SamplerName
from progdistill.evaluation.config import EvaluationSettings
from progdistill.models.config import DenoiserConfig
from progdistill.registry.checkpoint import CheckpointKind, CheckpointManifest
from progdistill.registry.evaluations import MeasurementSpec
from progdistill.store.base import Store
from progdistill.store.documents import read_record
from progdistill.store.layout import checkpoint_key
from progdistill.training.guidance import guidance_scale_for, takes_guidance
from progdistill.version import NUMERICS_VERSION

REFERENCE_SPLIT = "train"


class PlannedMeasurement(NamedTuple):
    """A measurement to report, and the trials that choose its γ."""

    field: str
    """The field of the `EvaluationRecord`."""
    spec: MeasurementSpec
    trials: tuple[MeasurementSpec, ...] = ()
    """One per value of γ; the best one's γ replaces that of `spec`."""


def no_images_reason(model: DenoiserConfig, info: DatasetInfo) -> str | None:
    """Why a model's samples are not compared with real images; None where they are."""
    if info.image_size and info.sample_shape == model.network.sample_shape:
        return None
    return f"dataset {info.name} has no images like those of the model"


def plan_measurements(
    manifest: CheckpointManifest,
    baseline: CheckpointManifest | None,
    sampling_steps: int,
    settings: EvaluationSettings,
    info: DatasetInfo,
    evaluator_id: str,
) -> list[PlannedMeasurement]:
    """List all measurements of an evaluation, in order.

    Args:
        manifest: The checkpoint to evaluate.
        baseline: The undistilled model to compare with, if any; guided like the checkpoint, if it can be.
        sampling_steps: Steps of every measurement.
        settings: Settings whose reference statistics are pinned by digest.
        info: The dataset with the real images.
        evaluator_id: Id of the evaluator's manifest.

    Raises:
        UsageError: The checkpoint cannot be sampled with the requested guidance scale.
    """
    guidance_scale = guidance_scale_for(manifest, settings.guidance_scale)
    guidance_scale = None if guidance_scale == 1 else guidance_scale
    folded = DenoiserConfig.of(manifest.identity).folded_guidance_scale
    statistics = settings.reference_statistics_sha256

    def spec(checkpoint: CheckpointManifest, sampler: SamplerName, gamma: float | None = None) -> MeasurementSpec:
        return MeasurementSpec(
            checkpoint_id=checkpoint.id,
            sampler=sampler,
            sampling_steps=sampling_steps,
            gamma=gamma,
            guidance_scale=(guidance_scale or folded) if takes_guidance(checkpoint) else None,
            class_counts=_class_counts(info, checkpoint),
            clip=settings.clip,
            samples=settings.samples,
            seed=settings.seed,
            shown_samples=settings.shown_samples,
            evaluator_id=evaluator_id,
            reference_fingerprint=info.fingerprint if statistics is None else f"file:{statistics}",
            reference_split=REFERENCE_SPLIT,
            numerics_version=NUMERICS_VERSION,
        )

    planned = [PlannedMeasurement("distilled", spec(manifest, SamplerName.DDIM))]
    ancestral = []
    if baseline is not None:
        planned.append(PlannedMeasurement("baseline_ddim", spec(baseline, SamplerName.DDIM)))
        ancestral.append(("baseline_ancestral", baseline))
    if settings.stochastic_students and manifest.identity.kind is CheckpointKind.STUDENT:
        ancestral.append(("distilled_ancestral", manifest))
    for field, checkpoint in ancestral:
        reported = spec(checkpoint, SamplerName.ANCESTRAL, settings.ancestral_gamma)
        planned.append(PlannedMeasurement(field, reported, _trials(reported, settings)))
    return planned


def _trials(reported: MeasurementSpec, settings: EvaluationSettings) -> tuple[MeasurementSpec, ...]:
    """One trial per γ from 0 to 1, on noise of their own; none for a single step, which draws no noise."""
    count = settings.tuned_gammas
    if count == 0 or reported.sampling_steps == 1:
        return ()
    samples = settings.tuning_samples or settings.samples
    changes = {"seed": settings.tuning_seed, "samples": samples, "shown_samples": 0, "trial": True}
    gammas = [place / (count - 1) for place in range(count)]
    return tuple(reported.model_copy(update={**changes, "gamma": gamma}) for gamma in gammas)


def _class_counts(info: DatasetInfo, checkpoint: CheckpointManifest) -> tuple[int, ...] | None:
    """The real images of each class, if samples must follow them; None if all classes are equally frequent.

    With as many samples of a rare class as of a common one, even a perfect model would be at a distance.
    """
    counts = info.class_counts
    classes = DenoiserConfig.of(checkpoint.identity).network.num_classes
    return counts if len(counts) == classes and len(set(counts)) > 1 else None


def baseline_of(store: Store, manifest: CheckpointManifest) -> CheckpointManifest | None:
    """Follow the teachers of a checkpoint up to the base or imported model, across runs.

    A base model is its own baseline. None if a teacher on the way is no longer in the store.
    """
    while manifest.identity.kind is CheckpointKind.STUDENT and manifest.identity.parent is not None:
        teacher = read_record(store, checkpoint_key(manifest.identity.parent), CheckpointManifest)
        if teacher is None:
            return None
        manifest = teacher
    return manifest
