"""What an evaluation measures: listed once, for the ranks that sample and the one that reports."""

from typing import NamedTuple

from progdistill.data.columns import CAPTION, LABEL
from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.names import SamplerName
from progdistill.errors import UsageError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.features.weights import check_clip, sha256_of
from progdistill.models.config import DenoiserConfig
from progdistill.registry.checkpoint import CheckpointKind, CheckpointManifest
from progdistill.registry.evaluations import MeasurementSpec
from progdistill.registry.pipeline import load_pipeline
from progdistill.store.base import Store
from progdistill.store.documents import read_record
from progdistill.store.layout import checkpoint_key
from progdistill.training.guidance import guidance_scale_for, takes_guidance
from progdistill.version import NUMERICS_VERSION

REFERENCE_SPLIT = "train"

SAMPLES_WITHOUT_IMAGES = 64
"""Compared with the undistilled model's where a dataset has no images, and nothing else can be measured."""


class PlannedMeasurement(NamedTuple):
    """A measurement to report, and the trials that choose its γ."""

    field: str
    """The field of the `EvaluationRecord`."""
    spec: MeasurementSpec
    trials: tuple[MeasurementSpec, ...] = ()
    """One per value of γ; the best one's γ replaces that of `spec`."""


class PlannedComparison(NamedTuple):
    """A comparison with the undistilled model's images, from the same noise."""

    teacher: CheckpointManifest
    samples: int
    with_features: bool
    """Whether images are compared in the evaluator's features too, not by pixels alone."""


class EvaluationPlan(NamedTuple):
    """What an evaluation consists of."""

    not_measured: str | None
    """Why samples are not compared with real images; None: they are, by `plan_measurements`."""
    comparison: PlannedComparison | None


def plan_evaluation(
    manifest: CheckpointManifest,
    baseline: CheckpointManifest | None,
    sampling_steps: int,
    settings: EvaluationSettings,
    info: DatasetInfo,
) -> EvaluationPlan:
    """Decide what an evaluation consists of; see `evaluate_checkpoint` for the arguments."""
    if sampling_steps > settings.max_sampling_steps:
        limit = f"evaluation.max_sampling_steps = {settings.max_sampling_steps}"
        return EvaluationPlan(f"{sampling_steps} sampling steps exceed {limit}", None)
    reason = no_images_reason(DenoiserConfig.of(manifest.identity), info)
    samples = settings.teacher_samples or (0 if reason is None else SAMPLES_WITHOUT_IMAGES)
    if baseline is None or not samples:
        return EvaluationPlan(reason, None)
    return EvaluationPlan(reason, PlannedComparison(baseline, samples, with_features=settings.teacher_samples > 0))


def needs_features(settings: EvaluationSettings, model: DenoiserConfig, info: DatasetInfo) -> bool:
    """Whether evaluations compare images in the evaluator's features."""
    return settings.teacher_samples > 0 or no_images_reason(model, info) is None


def checked_clip(settings: EvaluationSettings, model: DenoiserConfig, info: DatasetInfo) -> EvaluationSettings:
    """The settings with the digest of the CLIP model that they name, if any.

    Raises:
        UsageError: The folder has no such model, or nothing says what the images show.
    """
    if settings.clip_model is None:
        return settings
    weights = check_clip(settings.clip_model)
    has_captions = any(column.name == CAPTION for column in info.columns)
    prompts = any(column.name != LABEL for column in model.network.columns)
    if not (info.class_names and (prompts or model.network.num_classes)) and not (prompts and has_captions):
        raise UsageError(
            f"evaluation.clip_model compares images with words, but dataset {info.name} has neither captions nor names"
            " of classes that the model draws: leave it out"
        )
    return settings.model_copy(update={"clip_model_sha256": settings.clip_model_sha256 or sha256_of(weights)})


def as_sampled(store: Store, model: DenoiserConfig, info: DatasetInfo) -> DatasetInfo:
    """The dataset with the shape of the images that a model makes, for an evaluator that looks at these."""
    channels, size, _ = model.network.sample_shape
    if model.pipeline is not None:
        channels, size = 3, size * load_pipeline(store, model.pipeline).facts.vae_factor
    return info.model_copy(update={"channels": channels, "image_size": size})


def no_images_reason(model: DenoiserConfig, info: DatasetInfo) -> str | None:
    """Why a model's samples are not compared with real images; None where they are."""
    if info.image_size and info.sample_shape == model.network.sample_shape:
        return None
    advice = "" if model.pipeline is None else ": encode it with --keep-images to compare with real ones"
    return f"dataset {info.name} has no images like those of the model{advice}"


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
    reference = info.fingerprint if statistics is None else f"file:{statistics}"
    if statistics is not None and info.has_unconditional:
        reference += f", prompts of {info.fingerprint}"

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
            reference_fingerprint=reference,
            reference_split=REFERENCE_SPLIT,
            numerics_version=NUMERICS_VERSION,
            protocol=settings.protocol,
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
