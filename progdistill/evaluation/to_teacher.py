"""The distance of a student to its teacher from the same noise: no real images, and no features, are needed.

The undistilled model at many steps is what a student stands for. Both start from the same noise, so each sample can be
compared with its counterpart; the undistilled model at as many steps as the student tells what distillation gained.
"""

import time

import torch
from torch import Tensor

from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.names import SamplerName
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.latents import surroundings_in_data
from progdistill.evaluation.measurement import TeacherComparison
from progdistill.evaluation.sampling import generate
from progdistill.images import encode_contact_sheet
from progdistill.models.config import DenoiserConfig
from progdistill.models.load import load_denoiser
from progdistill.registry.checkpoint import CheckpointManifest
from progdistill.registry.evaluations import ContactSheet
from progdistill.store.base import Store
from progdistill.store.documents import upload_bytes
from progdistill.training.guidance import guidance_scale_for, takes_guidance


def compare_with_teacher(
    store: Store,
    manifest: CheckpointManifest,
    teacher: CheckpointManifest,
    sampling_steps: int,
    settings: EvaluationSettings,
    info: DatasetInfo,
    *,
    device: str = "cpu",
) -> TeacherComparison:
    """Sample a checkpoint, and the undistilled model at many steps and at as few, from the same noise with DDIM.

    Args:
        store: Where the checkpoints are, and where the pictures go.
        manifest: The checkpoint.
        teacher: The undistilled model; guided like the checkpoint, if it can be.
        sampling_steps: Steps of the checkpoint.
        settings: `teacher_samples`, `teacher_steps`, `seed`, `shown_samples`, `guidance_scale` and `clip`.
        info: The dataset, whose conditioning columns a text model draws.
        device: Where to sample.

    Raises:
        UsageError: The checkpoint cannot be guided as requested, or the dataset lacks a column.
    """
    began, samples = time.monotonic(), settings.teacher_samples
    scale = guidance_scale_for(manifest, settings.guidance_scale)
    scale = None if scale == 1 else scale
    config = DenoiserConfig.of(manifest.identity)
    folded, around = config.folded_guidance_scale, surroundings_in_data(store, config, info, samples, device)

    def drawn(checkpoint: CheckpointManifest, steps: int) -> Tensor:
        batches = generate(
            load_denoiser(store, checkpoint, device),
            SamplerName.DDIM,
            steps,
            indices=range(samples),
            seed=settings.seed,
            batch_size=settings.batch_size,
            guidance_scale=(scale or folded) if takes_guidance(checkpoint) else None,
            clip=settings.clip,
            surroundings=around,
            device=device,
            name=f"checkpoint {checkpoint.id[:12]}",
        )
        return torch.cat([batch.cpu() for batch in batches])

    student, reference = drawn(manifest, sampling_steps), drawn(teacher, settings.teacher_steps)
    itself = None if teacher.id == manifest.id else drawn(teacher, sampling_steps)
    return TeacherComparison(
        teacher_id=teacher.id,
        teacher_steps=settings.teacher_steps,
        samples=samples,
        seed=settings.seed,
        guidance_scale=scale or folded,
        distance=root_mean_square(student, reference),
        teacher_distance=None if itself is None else root_mean_square(itself, reference),
        seconds=time.monotonic() - began,
        shown=_sheet(store, student[: settings.shown_samples]),
        teacher_shown=_sheet(store, reference[: settings.shown_samples]),
    )


def root_mean_square(first: Tensor, second: Tensor) -> float:
    """√ mean (a − b)² over all pixels, of uint8 images in 0..255, as a share of 255."""
    return float((first.double() - second.double()).square().mean().sqrt() / 255)


def _sheet(store: Store, images: Tensor) -> ContactSheet | None:
    if len(images) == 0:
        return None
    pixels = images.permute(0, 2, 3, 1).numpy()
    return ContactSheet(file=upload_bytes(store, encode_contact_sheet(pixels)), images=len(images), labels=None)
