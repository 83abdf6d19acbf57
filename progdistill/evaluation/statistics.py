"""What is kept of a set of samples to compare it with the real images: small, and mergeable over shards."""

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
)
from progdistill.evaluation.reference import Reference
from progdistill.features.base import Features


class SampleStatistics(NamedTuple):
    """Of some samples: moments of features, sums of class probabilities, and some features as they are."""

    moments: Moments
    score: ScoreSums | None
    features: Float[Tensor, "vectors dimensions"]


class Figures(NamedTuple):
    """How a set of samples compares with the real images; None where that is not defined."""

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

    def add(self, seen: Features) -> None:
        """Take what was seen in a batch."""
        self._moments.add(seen.features)
        self._kept.append(seen.features[: max(self._keep, 0)].float().cpu())
        self._keep -= len(seen.features)
        if seen.probabilities is not None:
            sums = score_sums(seen.probabilities)
            self._score = sums if self._score is None else add_sums(self._score, sums)

    def statistics(self) -> SampleStatistics:
        """Of all batches so far; raises ValueError where there were none."""
        return SampleStatistics(self._moments.moments(), self._score, torch.cat(self._kept))


def merge_statistics(first: SampleStatistics, second: SampleStatistics) -> SampleStatistics:
    """The statistics of both sets of samples together."""
    both_scored = first.score is not None and second.score is not None
    return SampleStatistics(
        merge(first.moments, second.moments),
        add_sums(first.score, second.score) if first.score and second.score and both_scored else None,
        torch.cat((first.features, second.features)),
    )


def compare(samples: SampleStatistics, reference: Reference) -> Figures:
    """Every figure that the statistics allow."""
    kernel, covered = None, None
    if reference.features is not None:
        kernel = kernel_distance(samples.features, reference.features)
        if min(len(samples.features), len(reference.features)) > NEIGHBORS:
            covered = precision_recall(samples.features, reference.features)
    return Figures(
        distance=frechet_distance(
            samples.moments.mean, samples.moments.covariance, reference.mean, reference.covariance
        ),
        kernel_distance=kernel,
        precision=None if covered is None else covered.precision,
        recall=None if covered is None else covered.recall,
        inception_score=None if samples.score is None else inception_score(samples.score),
    )
