"""One measurement: sample a checkpoint in one way, look at the samples, compare them with the real images."""

import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from progdistill.artifacts.checkpoint import CheckpointManifest, blob_key, fetch_weights
from progdistill.artifacts.store import Store
from progdistill.evaluation.evaluator import Evaluator
from progdistill.evaluation.frechet import frechet_distance
from progdistill.evaluation.inception_score import ScoreSums, add_sums, inception_score, score_sums
from progdistill.evaluation.measurement import Measurement, Question, SampleStrip
from progdistill.evaluation.moments import Moments, merge, moments_of, no_moments
from progdistill.evaluation.pictures import encode_strip
from progdistill.evaluation.sampling import generate, labels_of
from progdistill.models.config import DenoiserConfig
from progdistill.models.denoiser import Denoiser, build_denoiser, load_weights
from progdistill.progress import Progress


def load_denoiser(store: Store, manifest: CheckpointManifest, device: str = "cpu") -> Denoiser:
    """A checkpoint's denoiser with its verified weights, ready to sample on a device."""
    config = DenoiserConfig.model_validate(manifest.identity.architecture)
    denoiser = build_denoiser(config, seed=0)
    load_weights(denoiser, fetch_weights(store, manifest))
    return denoiser.to(device).eval().requires_grad_(False)


class _Observed:
    """What has been gathered of the samples so far, and where the time went."""

    def __init__(self, dimensions: int) -> None:
        self.moments: Moments = no_moments(dimensions)
        self.score: ScoreSums | None = None
        self.shown: list[np.ndarray] = []
        self.sampling_seconds = 0.0
        self.evaluation_seconds = 0.0


def measure(
    store: Store,
    question: Question,
    denoiser: Denoiser,
    evaluator: Evaluator,
    reference: Moments,
    *,
    batch_size: int,
    device: str,
) -> Measurement:
    """Answer a question anew; progress goes to standard error. The answer is returned, not yet published."""
    observed = _observe(question, denoiser, evaluator, batch_size, device)
    began = time.monotonic()
    distance = frechet_distance(
        observed.moments.mean, observed.moments.covariance, reference.mean, reference.covariance
    )
    return Measurement(
        question=question,
        distance=distance,
        distance_name=evaluator.manifest.identity.distance_name,
        inception_score=None if observed.score is None else inception_score(observed.score),
        sampling_seconds=observed.sampling_seconds,
        evaluation_seconds=observed.evaluation_seconds + time.monotonic() - began,
        device=_device_name(device),
        created_at=datetime.now(UTC),
        shown=_publish_strip(store, question, observed.shown, denoiser.config.network.num_classes),
    )


def _observe(
    question: Question, denoiser: Denoiser, evaluator: Evaluator, batch_size: int, device: str
) -> _Observed:
    observed = _Observed(evaluator.manifest.identity.feature_dimensions)
    label = f"{question.sampler} × {question.steps}"
    with Progress(label, total=question.samples, unit="images") as progress:
        for images in _timed_samples(question, denoiser, batch_size, device, observed):
            began = time.monotonic()
            with torch.inference_mode():
                seen = evaluator.observe(images)
            observed.moments = merge(observed.moments, moments_of(seen.features))
            if seen.probabilities is not None:
                sums = score_sums(seen.probabilities)
                observed.score = sums if observed.score is None else add_sums(observed.score, sums)
            observed.evaluation_seconds += time.monotonic() - began
            missing = question.shown_samples - sum(map(len, observed.shown))
            if missing > 0:
                observed.shown.append(images[:missing].permute(0, 2, 3, 1).cpu().numpy())
            progress.advance(len(images))
    return observed


def _timed_samples(
    question: Question, denoiser: Denoiser, batch_size: int, device: str, observed: _Observed
) -> Iterator[Tensor]:
    batches = generate(
        denoiser,
        question.sampler,
        question.steps,
        indices=range(question.samples),
        seed=question.seed,
        batch_size=batch_size,
        gamma=question.gamma,
        clip=question.clip,
        device=device,
    )
    while True:
        began = time.monotonic()
        images = next(batches, None)
        observed.sampling_seconds += time.monotonic() - began
        if images is None:
            return
        yield images


def _publish_strip(
    store: Store, question: Question, shown: list[np.ndarray], num_classes: int
) -> SampleStrip | None:
    if not shown:
        return None
    images = np.concatenate(shown)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.png"
        path.write_bytes(encode_strip(images))
        blob = store.upload(path, blob_key)
    labels = labels_of(range(len(images)), num_classes)
    return SampleStrip(
        sha256=blob.sha256,
        size_bytes=blob.size_bytes,
        images=len(images),
        labels=None if labels is None else tuple(labels.tolist()),
    )


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
