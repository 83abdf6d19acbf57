"""The distance of a student to its teacher from the same noise: no real images are needed.

The undistilled model at many steps is what a student stands for. Both start from the same noise, so each sample can be
compared with its counterpart; the undistilled model at as many steps as the student shows what distillation gained.
"""

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from progdistill.data.dataset import DatasetInfo
from progdistill.errors import UsageError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.generated import GenerationSpec, ImageGenerator, forget
from progdistill.evaluation.latents import Surroundings, surroundings_in_data
from progdistill.evaluation.measurement import TeacherComparison
from progdistill.evaluation.metrics import Moments, MomentStream, frechet_distance
from progdistill.evaluation.plan import PlannedComparison, as_sampled
from progdistill.evaluation.sampling import labels_of
from progdistill.features.base import FeatureExtractor
from progdistill.features.clip import ClipScorer
from progdistill.features.registry import find_or_publish_evaluator, open_evaluator
from progdistill.features.weights import check_clip, sha256_of
from progdistill.images import encode_contact_sheet
from progdistill.models.config import DenoiserConfig
from progdistill.models.denoiser import Denoiser
from progdistill.models.load import load_denoiser
from progdistill.registry.checkpoint import CheckpointManifest, load_manifest
from progdistill.registry.evaluations import ContactSheet
from progdistill.store.base import Store
from progdistill.store.documents import upload_bytes
from progdistill.training.guidance import guidance_scale_for, takes_guidance
from progdistill.version import NUMERICS_VERSION


class Generated(NamedTuple):
    """Images of a model, uint8 [count, channels, height, width] on the CPU, and the moments of their features."""

    images: Tensor
    moments: Moments | None


class Comparison(NamedTuple):
    """Images of a checkpoint and of the undistilled model at many steps and at as few, from the same noise."""

    config: DenoiserConfig
    """Of the checkpoint."""
    guidance_scale: float | None
    generator: ImageGenerator
    samples: int
    student: GenerationSpec
    reference: GenerationSpec
    """Of the undistilled model at many steps; it serves other students, too."""
    itself: GenerationSpec | None
    """Of the undistilled model at as few steps; None where it is the checkpoint."""

    @property
    def specs(self) -> list[GenerationSpec]:
        """All of them, once."""
        return list(dict.fromkeys(spec for spec in (self.reference, self.student, self.itself) if spec is not None))


def plan_comparison(
    store: Store,
    manifest: CheckpointManifest,
    planned: PlannedComparison,
    sampling_steps: int,
    settings: EvaluationSettings,
    info: DatasetInfo,
    *,
    device: str = "cpu",
    compiled: bool = False,
) -> Comparison:
    """List what `compare_with_teacher`, whose arguments these are, compares."""
    teacher, config = planned.teacher, DenoiserConfig.of(manifest.identity)
    scale = guidance_scale_for(manifest, settings.guidance_scale)
    scale = config.folded_guidance_scale if scale in (None, 1) else scale
    around = surroundings_in_data(store, config, info, math.ceil(planned.samples / settings.images_per_prompt), device)
    prompts = around.prompt_count if around is not None else 0

    def spec(checkpoint: CheckpointManifest, steps: int) -> GenerationSpec:
        return GenerationSpec(
            checkpoint_id=checkpoint.id,
            sampling_steps=steps,
            seed=settings.seed,
            guidance_scale=scale if takes_guidance(checkpoint) else None,
            clip=settings.clip,
            prompts=f"{prompts} of {info.fingerprint}" if prompts else None,
            numerics_version=NUMERICS_VERSION,
        )

    def load(checkpoint_id: str) -> Denoiser:
        return load_denoiser(store, load_manifest(store, checkpoint_id), device, compiled=compiled)

    return Comparison(
        config,
        scale,
        ImageGenerator(store, load, around, settings.batch_size, device),
        planned.samples,
        student=spec(manifest, sampling_steps),
        reference=spec(teacher, settings.teacher_steps),
        itself=None if teacher.id == manifest.id else spec(teacher, sampling_steps),
    )


def compare_with_teacher(
    store: Store,
    manifest: CheckpointManifest,
    planned: PlannedComparison,
    sampling_steps: int,
    settings: EvaluationSettings,
    info: DatasetInfo,
    *,
    device: str = "cpu",
    compiled: bool = False,
) -> TeacherComparison:
    """Sample a checkpoint, and the undistilled model at many steps and at as few, from the same noise with DDIM.

    Args:
        store: Where the checkpoints are, and where the pictures go.
        manifest: The checkpoint.
        planned: The undistilled model, guided like the checkpoint if it can be; how many images.
        sampling_steps: Steps of the checkpoint.
        settings: `teacher_steps`, `images_per_prompt`, `seed`, `shown_samples`, `guidance_scale` and `clip`.
        info: The dataset, whose conditioning columns a text model draws.
        device: Where to sample.
        compiled: Whether the sampled networks are.

    Raises:
        UsageError: The checkpoint cannot be guided as requested, the dataset lacks a column, or the evaluator its
            weights.
    """
    began = time.monotonic()
    plan = plan_comparison(store, manifest, planned, sampling_steps, settings, info, device=device, compiled=compiled)
    config, around, count = plan.config, plan.generator.around, plan.samples
    extractor = None
    if planned.with_features:
        evaluator = find_or_publish_evaluator(store, settings, as_sampled(store, config, info))
        extractor = open_evaluator(store, evaluator, device)

    def generated(spec: GenerationSpec) -> Generated:
        images = plan.generator.images(spec, count)
        return Generated(images, extractor and _moments(extractor, images, settings.batch_size, device))

    student, reference = generated(plan.student), generated(plan.reference)
    itself = None if plan.itself is None else generated(plan.itself)
    groups = _groups(config, around, count)
    compared = TeacherComparison(
        teacher_id=planned.teacher.id,
        teacher_steps=settings.teacher_steps,
        samples=count,
        seed=settings.seed,
        guidance_scale=plan.guidance_scale,
        distance=root_mean_square(student.images, reference.images),
        teacher_distance=None if itself is None else root_mean_square(itself.images, reference.images),
        evaluator_id=None if extractor is None else extractor.manifest.id,
        frechet=_frechet(student, reference),
        teacher_frechet=None if itself is None else _frechet(itself, reference),
        diversity=diversity(student.images, groups),
        teacher_diversity=diversity(reference.images, groups),
        **_clip_scores(settings, (student.images, reference.images), _texts(config, around, info, count), device),
        seconds=time.monotonic() - began,
        shown=_sheet(store, config, around, student.images[: settings.shown_samples]),
        teacher_shown=_sheet(store, config, around, reference.images[: settings.shown_samples]),
    )
    for spec in plan.specs:
        if spec != plan.reference:
            forget(store, spec)
    return compared


def _moments(extractor: FeatureExtractor, images: Tensor, batch_size: int, device: str) -> Moments:
    stream = MomentStream()
    with torch.inference_mode():
        for batch in torch.split(images, batch_size):
            stream.add(extractor.extract(batch.to(device)).features)
    return stream.moments()


def root_mean_square(first: Tensor, second: Tensor) -> float:
    """√ mean (a − b)² over all pixels, of uint8 images in 0..255, as a share of 255."""
    return float((first.double() - second.double()).square().mean().sqrt() / 255)


def diversity(images: Tensor, groups: Sequence[int]) -> float | None:
    """√ mean (a − b)² over the pixels of all pairs within a group, the mean of groups of two or more images.

    Args:
        images: uint8 [count, …] in 0..255.
        groups: The group of each image.

    Returns:
        0 to 1; None where every group has a single image.
    """
    squares, numbers = [], torch.tensor(groups)
    for group in sorted(set(groups)):
        own = images[numbers == group].double().flatten(1) / 255
        if len(own) > 1:  # of n images the mean over pairs is 2·n / (n − 1) times the variance
            squares.append(2 * own.var(dim=0, correction=1).mean())
    return float(torch.stack(squares).mean().sqrt()) if squares else None


def _groups(config: DenoiserConfig, around: Surroundings | None, count: int) -> list[int]:
    """The prompt or class of each sample; all are one group for a model without either."""
    if around is not None and around.prompts is not None:
        return [index % around.prompt_count for index in range(count)]
    labels = labels_of(range(count), config.network.num_classes)
    return [0] * count if labels is None else labels.tolist()


def _texts(config: DenoiserConfig, around: Surroundings | None, info: DatasetInfo, count: int) -> list[str]:
    """What each sample was drawn for, in words: its prompt, or the name of its class; none where that is not known."""
    if around is not None and around.texts:
        return [around.texts[index % around.prompt_count] for index in range(count)]
    labels = labels_of(range(count), config.network.num_classes)
    if labels is None or config.network.num_classes > len(info.class_names):
        return []
    return [info.class_names[label] for label in labels.tolist()]


def _clip_scores(
    settings: EvaluationSettings, drawn: tuple[Tensor, Tensor], texts: Sequence[str], device: str
) -> dict[str, Any]:
    """The fields of CLIP score, of the checkpoint's and the undistilled model's images."""
    if settings.clip_model is None:
        return {}
    sha256 = sha256_of(check_clip(settings.clip_model))
    if settings.clip_model_sha256 not in (None, sha256):
        raise UsageError(
            f"evaluation.clip_model = {settings.clip_model} has SHA-256 {sha256}, but {settings.clip_model_sha256} is"
            " expected: name the right folder, or give this one's digest (evaluation.clip_model_sha256)"
        )
    scorer, size = ClipScorer(settings.clip_model, device), settings.batch_size
    scores = [
        torch.cat([scorer(images[i : i + size], texts[i : i + size]) for i in range(0, len(images), size)])
        for images in drawn
    ]
    student, teacher = (float(one.double().mean()) for one in scores)
    return {"clip_model_sha256": sha256, "clip_score": student, "teacher_clip_score": teacher}


def _frechet(images: Generated, reference: Generated) -> float | None:
    if images.moments is None or reference.moments is None:
        return None
    first, second = images.moments, reference.moments
    return frechet_distance(first.mean, first.covariance, second.mean, second.covariance)


def _sheet(store: Store, config: DenoiserConfig, around: Surroundings | None, images: Tensor) -> ContactSheet | None:
    if len(images) == 0:
        return None
    pixels = images.permute(0, 2, 3, 1).numpy()
    labels = labels_of(range(len(images)), config.network.num_classes)
    texts = () if around is None else around.texts
    return ContactSheet(
        file=upload_bytes(store, encode_contact_sheet(pixels)),
        images=len(images),
        labels=None if labels is None else tuple(labels.tolist()),
        prompts=tuple(texts[index % len(texts)] for index in range(len(images))) if texts else None,
    )
