"""Statistics of a set of samples: small, mergeable over shards, and enough for every metric."""

from collections.abc import Sequence
from functools import reduce
from statistics import fmean
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from progdistill.evaluation.metrics import (
    NEIGHBORS,
    Moments,
    MomentStream,
    ScoreSums,
    add_sums,
    frechet_distance,
    inception_score,
    kernel_distance,
    merge,
    precision_recall,
    score_sums,
    subset_kernel_distance,
)
from progdistill.evaluation.reference import Reference
from progdistill.features.base import Features


class SampleStatistics(NamedTuple):
    """Moments of the features, sums of the class probabilities, and the first features themselves."""

    moments: Moments
    score: ScoreSums | None
    features: Float[Tensor, "vectors dimensions"]


class Figures(NamedTuple):
    """How a set of samples compares with the real images; None if that is not defined."""

    distance: float
    kernel_distance: float | None
    precision: float | None
    recall: float | None
    inception_score: float | None


class StatisticsStream:
    """The statistics of samples that arrive in batches, with the features of the first `keep`."""

    def __init__(self, keep: int) -> None:
        self._moments = MomentStream()
        self._score: ScoreSums | None = None
        self._keep, self._kept = keep, list[Tensor]()

    def add(self, batch: Features) -> None:
        """Add a batch."""
        self._moments.add(batch.features)
        self._kept.append(batch.features[: max(self._keep, 0)].float().cpu())
        self._keep -= len(batch.features)
        if batch.probabilities is not None:
            sums = score_sums(batch.probabilities)
            self._score = sums if self._score is None else add_sums(self._score, sums)

    def statistics(self) -> SampleStatistics:
        """Of all batches so far; raises ValueError if there were none."""
        return SampleStatistics(self._moments.moments(), self._score, torch.cat(self._kept))


def merge_statistics(first: SampleStatistics, second: SampleStatistics) -> SampleStatistics:
    """The statistics of both sets of samples together."""
    return SampleStatistics(
        merge(first.moments, second.moments),
        add_sums(first.score, second.score) if first.score and second.score else None,
        torch.cat((first.features, second.features)),
    )


def compare(samples: SampleStatistics, reference: Reference) -> Figures:
    """Every metric that the statistics allow."""
    moments, real = samples.moments, reference.features
    kernel = precision = recall = None
    if real is not None:
        kernel = kernel_distance(samples.features, real)
        if min(len(samples.features), len(real)) > NEIGHBORS:
            precision, recall = precision_recall(samples.features, real)
    return Figures(
        distance=frechet_distance(moments.mean, moments.covariance, reference.mean, reference.covariance),
        kernel_distance=kernel,
        precision=precision,
        recall=recall,
        inception_score=None if samples.score is None else inception_score(samples.score),
    )


def as_published(
    figures: Figures, samples: SampleStatistics, reference: Reference, splits: Sequence[Sequence[SampleStatistics]]
) -> Figures:
    """Figures by the published protocols; precision and recall are so if the features of all samples are kept.

    Args:
        figures: Of all samples at once.
        samples: Statistics of all samples.
        reference: Of the real images.
        splits: Statistics of the parts of each split, whose class scores are averaged.
    """
    scores = [reduce(merge_statistics, parts).score for parts in splits]
    kernel = None if reference.features is None else subset_kernel_distance(samples.features, reference.features)
    return figures._replace(
        kernel_distance=kernel,
        inception_score=None if None in scores else fmean(inception_score(score) for score in scores if score),
    )
