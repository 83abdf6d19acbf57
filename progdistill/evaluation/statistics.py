"""What is kept of a set of samples to compare it with the real images: small, and mergeable over shards."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from progdistill.evaluation.evaluator import Observation
from progdistill.evaluation.frechet import frechet_distance
from progdistill.evaluation.inception_score import ScoreSums, add_sums, inception_score, score_sums
from progdistill.evaluation.kernel_distance import kernel_distance
from progdistill.evaluation.moments import Moments, merge, moments_of
from progdistill.evaluation.precision_recall import NEIGHBOURS, precision_recall
from progdistill.evaluation.reference import Reference


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


def statistics_of(seen: Observation, keep: int) -> SampleStatistics:
    """The statistics of one batch, with the features of its first `keep` samples."""
    return SampleStatistics(
        moments_of(seen.features),
        None if seen.probabilities is None else score_sums(seen.probabilities),
        seen.features[: max(keep, 0)].float().cpu(),
    )


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
        if min(len(samples.features), len(reference.features)) > NEIGHBOURS:
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
