"""Mean and covariance of a stream of feature vectors, in float64, without keeping the vectors."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

BLOCK = 1024
"""Vectors that a stream gathers before it adds them up."""


class Moments(NamedTuple):
    """Number, mean and scatter S = Σ (f − mean)(f − mean)ᵀ of the feature vectors seen so far.

    The scatter is kept centred: sums of raw squares would lose the digits that the covariance consists of.
    """

    vectors: int
    mean: Float64[Tensor, " dimensions"]
    scatter: Float64[Tensor, "dimensions dimensions"]

    @property
    def covariance(self) -> Float64[Tensor, "dimensions dimensions"]:
        """The unbiased covariance S / (vectors − 1); raises ValueError below two vectors."""
        if self.vectors < 2:
            raise ValueError(f"a covariance needs at least 2 feature vectors, not {self.vectors}")
        return self.scatter / (self.vectors - 1)


def no_moments(dimensions: int) -> Moments:
    """The moments of no vectors at all."""
    return Moments(
        0,
        torch.zeros(dimensions, dtype=torch.float64),
        torch.zeros(dimensions, dimensions, dtype=torch.float64),
    )


def moments_of(features: Float[Tensor, "count dimensions"]) -> Moments:
    """The moments of one batch of vectors, computed in float64 where the features are.

    Features on a device without float64 must be moved to the CPU first.
    """
    wide = features.double()
    if len(wide) == 0:
        return no_moments(wide.shape[1])
    mean = wide.mean(dim=0)
    return Moments(len(wide), mean.cpu(), _gram(wide - mean))


def _gram(centred: Float64[Tensor, "count dimensions"]) -> Float64[Tensor, "dimensions dimensions"]:
    """XᵀX on the CPU; NumPy computes half of it, because it is symmetric."""
    if centred.device.type != "cpu":
        return (centred.T @ centred).cpu()
    rows = centred.numpy()
    return torch.from_numpy(rows.T @ rows)


class MomentStream:
    """Moments of a stream of batches.

    Vectors are gathered into blocks: at 2048 dimensions merging takes as long as the sums of 100 vectors.
    """

    def __init__(self) -> None:
        self._merged: Moments | None = None
        self._waiting: list[Tensor] = []

    def add(self, features: Float[Tensor, "count dimensions"]) -> None:
        """Take a batch of vectors, which must not change afterwards."""
        self._waiting.append(features)
        if sum(map(len, self._waiting)) >= BLOCK:
            self._merge()

    def moments(self) -> Moments:
        """Of all vectors so far; raises ValueError where there were none."""
        if self._waiting:
            self._merge()
        if self._merged is None:
            raise ValueError("no vectors, no moments")
        return self._merged

    def _merge(self) -> None:
        block = moments_of(torch.cat(self._waiting))
        self._merged = block if self._merged is None else merge(self._merged, block)
        self._waiting = []


def merge(first: Moments, second: Moments) -> Moments:
    """The moments of both sets of vectors together (Chan, Golub & LeVeque 1979)."""
    count = first.vectors + second.vectors
    if count == 0:
        return first
    shift = second.mean - first.mean
    share = second.vectors / count
    return Moments(
        count,
        first.mean + share * shift,
        first.scatter + second.scatter + first.vectors * share * torch.outer(shift, shift),
    )
