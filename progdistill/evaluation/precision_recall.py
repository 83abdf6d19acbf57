"""Improved precision and recall of samples (Kynkäänniemi et al. 2019)."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Samples = Float[Tensor, "samples dimensions"]
Real = Float[Tensor, "real dimensions"]

NEIGHBOURS = 3
"""k of the paper: a vector's ball reaches its third nearest neighbour."""

_ROWS = 1024
"""Of a distance matrix, computed at once."""


class PrecisionRecall(NamedTuple):
    """Both from 0 to 1."""

    precision: float
    recall: float


def precision_recall(samples: Samples, real: Real, neighbours: int = NEIGHBOURS) -> PrecisionRecall:
    """Precision: the share of samples in a real vector's ball. Recall: of real ones in a sample's ball.

    Raises ValueError where a set has no `neighbours` other vectors.
    """
    precision = _covered(samples, real, _radii(real, neighbours))
    recall = _covered(real, samples, _radii(samples, neighbours))
    return PrecisionRecall(float(precision.double().mean()), float(recall.double().mean()))


def _radii(features: Real, neighbours: int) -> Float[Tensor, " real"]:
    """The distance of each vector to its k-th nearest other vector."""
    if len(features) <= neighbours:
        raise ValueError(f"{len(features)} vectors have no {neighbours} neighbours each")
    wide = features.double()
    nearest = [
        torch.cdist(rows, wide, compute_mode="use_mm_for_euclid_dist").kthvalue(neighbours + 1, dim=1)[0]
        for rows in torch.split(wide, _ROWS)
    ]
    return torch.cat(nearest)


def _covered(queries: Samples, centres: Real, radii: Float[Tensor, " real"]) -> Bool[Tensor, " samples"]:
    """Whether each query lies within the ball of at least one centre."""
    wide = centres.double()
    within = [
        (torch.cdist(rows.double(), wide, compute_mode="use_mm_for_euclid_dist") <= radii).any(dim=1)
        for rows in torch.split(queries, _ROWS)
    ]
    return torch.cat(within)
