"""A shard of a measurement: some of its samples, drawn and looked at."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from progdistill.artifacts.faults import reach
from progdistill.evaluation.evaluator import Evaluator
from progdistill.evaluation.measurement import Question
from progdistill.evaluation.pictures import Pixels
from progdistill.evaluation.reference import KEPT_FEATURES
from progdistill.evaluation.sampling import generate
from progdistill.evaluation.statistics import SampleStatistics, StatisticsStream
from progdistill.models.denoiser import Denoiser
from progdistill.progress import Progress

SHARD_SAMPLES = 5000
"""Samples of a shard. Fixed, so that sums are added in one order whatever the number of ranks."""


class ShardResult(NamedTuple):
    """What a shard's samples gave, its first images, and the seconds it took."""

    statistics: SampleStatistics
    shown: Pixels
    sampling_seconds: float
    evaluation_seconds: float


def shards_of(samples: int) -> list[range]:
    """Cut sample indices into shards."""
    return [range(start, min(start + SHARD_SAMPLES, samples)) for start in range(0, samples, SHARD_SAMPLES)]


def measure_shard(
    question: Question,
    indices: range,
    denoiser: Denoiser,
    evaluator: Evaluator,
    *,
    batch_size: int,
    device: str,
    progress: Progress,
) -> ShardResult:
    """Draw the samples `indices` and gather their statistics; images below `shown_samples` are kept."""
    stream = StatisticsStream(keep=KEPT_FEATURES - indices.start)
    shown: list[Pixels] = []
    watch = _Watch()
    index = indices.start
    for images in watch.sampling(_samples(question, indices, denoiser, batch_size, device)):
        began = time.monotonic()
        with torch.inference_mode():
            stream.add(evaluator.observe(images))
        watch.evaluation_seconds += time.monotonic() - began
        shown.append(images[: max(question.shown_samples - index, 0)].permute(0, 2, 3, 1).cpu().numpy())
        index += len(images)
        progress.advance(len(images))
        reach("evaluation.batch")
    began = time.monotonic()
    statistics = stream.statistics()
    watch.evaluation_seconds += time.monotonic() - began
    return ShardResult(statistics, np.concatenate(shown), watch.sampling_seconds, watch.evaluation_seconds)


class _Watch:
    """Tells the time of drawing samples from that of looking at them."""

    def __init__(self) -> None:
        self.sampling_seconds = 0.0
        self.evaluation_seconds = 0.0

    def sampling(self, batches: Iterator[Tensor]) -> Iterator[Tensor]:
        """Pass batches on, counting the seconds it takes to make each."""
        while True:
            began = time.monotonic()
            images = next(batches, None)
            self.sampling_seconds += time.monotonic() - began
            if images is None:
                return
            yield images


def _samples(
    question: Question, indices: range, denoiser: Denoiser, batch_size: int, device: str
) -> Iterator[Tensor]:
    return generate(
        denoiser,
        question.sampler,
        question.steps,
        indices=indices,
        seed=question.seed,
        batch_size=batch_size,
        gamma=question.gamma,
        guidance=question.guidance,
        clip=question.clip,
        class_counts=question.class_counts,
        device=device,
        name=f"checkpoint {question.checkpoint_id[:12]}",
    )
