"""Metrics of a set of images, from its features: FID, KID, precision and recall, Inception Score."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from numpy.typing import NDArray
from torch import Tensor

BLOCK = 1024
"""Vectors that a stream gathers before it adds them up."""


class Moments(NamedTuple):
    """Number, mean and scatter S = Σ (f − mean)(f − mean)ᵀ of the feature vectors seen so far.

    The scatter is kept centered: sums of raw squares would lose the digits that the covariance consists of.
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


def _gram(centered: Float64[Tensor, "count dimensions"]) -> Float64[Tensor, "dimensions dimensions"]:
    """XᵀX on the CPU; NumPy computes half of it, because it is symmetric."""
    if centered.device.type != "cpu":
        return (centered.T @ centered).cpu()
    rows = centered.numpy()
    return torch.from_numpy(rows.T @ rows)


class MomentStream:
    """Moments of a stream of batches.

    Vectors are gathered into blocks: at 2048 dimensions merging takes as long as the sums of 100 vectors.
    """

    def __init__(self) -> None:
        self._merged: Moments | None = None
        self._waiting: list[Tensor] = []

    def add(self, features: Float[Tensor, "count dimensions"]) -> None:
        """Take a batch of vectors, which must not change afterward."""
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


Vector = Float64[Tensor, " dimensions"]
Matrix = Float64[Tensor, "dimensions dimensions"]
Array = NDArray[np.float64]


def frechet_distance(mean1: Vector, covariance1: Matrix, mean2: Vector, covariance2: Matrix) -> float:
    """‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2·tr (Σ₁Σ₂)^½, never below zero.

    With any root RRᵀ = Σ₁ the product Σ₁Σ₂ has the eigenvalues of the symmetric Rᵀ·Σ₂·R, so a symmetric
    eigendecomposition does where a square root of the product would be slow, and would fail for the singular
    covariances of few samples.
    """
    cross = np.sqrt(_product_eigenvalues(covariance1.numpy(), covariance2.numpy()).clip(min=0)).sum()
    shift = (mean1 - mean2).square().sum()
    distance = float(shift + covariance1.trace() + covariance2.trace()) - 2 * float(cross)
    return max(distance, 0.0)


def _product_eigenvalues(first: Array, second: Array) -> Array:
    """Of the product of two covariances, in which their order does not matter.

    NumPy's OpenBLAS, for torch's MKL takes twice as long on an AMD processor.
    """
    try:
        root = np.linalg.cholesky(first)
    except np.linalg.LinAlgError:
        first, second = second, first
        root = _root(first)
    found: Array = np.linalg.eigvalsh(root.T @ second @ root)
    return found


def _root(covariance: Array) -> Array:
    """R with RRᵀ = Σ: Cholesky's, ten times as fast, unless Σ is singular."""
    try:
        return np.asarray(np.linalg.cholesky(covariance), np.float64)
    except np.linalg.LinAlgError:
        eigenvalues, vectors = np.linalg.eigh(covariance)
        return np.asarray(vectors * np.sqrt(eigenvalues.clip(min=0)), np.float64)


First = Float[Tensor, "m dimensions"]
Second = Float[Tensor, "n dimensions"]

_ROWS = 1024
"""Rows of a kernel or distance matrix computed at once: 10,000 vectors would else take 800 MB a matrix."""


def kernel_distance(first: First, second: Second) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy, kernel k(a, b) = (a·b/d + 1)³.

    Over all pairs of vectors, where others average over random subsets: equal on average, with less scatter.
    It can be slightly negative. Raises ValueError below two vectors in either set.
    """
    m, n = len(first), len(second)
    if min(m, n) < 2:
        raise ValueError(f"a kernel distance needs 2 vectors in each set, not {m} and {n}")
    within_first = (_kernel_sum(first, first) - _diagonal_sum(first)) / (m * (m - 1))
    within_second = (_kernel_sum(second, second) - _diagonal_sum(second)) / (n * (n - 1))
    return within_first + within_second - 2 * _kernel_sum(first, second) / (m * n)


def _kernel_sum(first: First, second: Second) -> float:
    other = second.double()
    total = 0.0
    for rows in torch.split(first, _ROWS):
        total += float((rows.double() @ other.T / first.shape[1] + 1).pow(3).sum())
    return total


def _diagonal_sum(features: First) -> float:
    return float((features.double().square().sum(dim=1) / features.shape[1] + 1).pow(3).sum())


Samples = Float[Tensor, "samples dimensions"]
Real = Float[Tensor, "real dimensions"]

NEIGHBORS = 3
"""k of the paper: a vector's ball reaches its third nearest neighbor."""


class PrecisionRecall(NamedTuple):
    """Both from 0 to 1."""

    precision: float
    recall: float


def precision_recall(samples: Samples, real: Real, neighbors: int = NEIGHBORS) -> PrecisionRecall:
    """Precision: the share of samples in a real vector's ball. Recall: of real ones in a sample's ball.

    Raises ValueError where a set has no `neighbors` other vectors.
    """
    precision = _covered(samples, real, _radii(real, neighbors))
    recall = _covered(real, samples, _radii(samples, neighbors))
    return PrecisionRecall(float(precision.double().mean()), float(recall.double().mean()))


def _radii(features: Real, neighbors: int) -> Float[Tensor, " real"]:
    """The distance of each vector to its k-th nearest other vector."""
    if len(features) <= neighbors:
        raise ValueError(f"{len(features)} vectors have no {neighbors} neighbors each")
    wide = features.double()
    nearest = [
        torch.cdist(rows, wide, compute_mode="use_mm_for_euclid_dist").kthvalue(neighbors + 1, dim=1)[0]
        for rows in torch.split(wide, _ROWS)
    ]
    return torch.cat(nearest)


def _covered(queries: Samples, centers: Real, radii: Float[Tensor, " real"]) -> Bool[Tensor, " samples"]:
    """Whether each query lies within the ball of at least one center."""
    wide = centers.double()
    within = [
        (torch.cdist(rows.double(), wide, compute_mode="use_mm_for_euclid_dist") <= radii).any(dim=1)
        for rows in torch.split(queries, _ROWS)
    ]
    return torch.cat(within)


class ScoreSums(NamedTuple):
    """Sums over samples: of p(y|x), and of the negative entropies Σ_y p·log p."""

    samples: int
    probabilities: Float64[Tensor, " classes"]
    negative_entropy: float


def score_sums(probabilities: Float[Tensor, "batch classes"]) -> ScoreSums:
    """The sums of one batch."""
    wide = probabilities.double()
    return ScoreSums(len(wide), wide.sum(dim=0).cpu(), float(torch.xlogy(wide, wide).sum()))


def add_sums(first: ScoreSums, second: ScoreSums) -> ScoreSums:
    """The sums of both sets of samples."""
    return ScoreSums(
        first.samples + second.samples,
        first.probabilities + second.probabilities,
        first.negative_entropy + second.negative_entropy,
    )


def inception_score(sums: ScoreSums) -> float:
    """exp E_x KL(p(y|x) ‖ p(y)): from 1 to the number of classes, over all samples as one split."""
    marginal = sums.probabilities / sums.samples
    divergence = sums.negative_entropy / sums.samples - torch.xlogy(marginal, marginal).sum()
    return float(torch.exp(divergence))


def classes_in_shares(indices: NDArray[np.int64], counts: tuple[int, ...]) -> NDArray[np.int64]:
    """The class of each sample index ≥ 0 for data with `counts` images of each class, not all 0.

    A class is a function of its index alone. Whatever the number of samples n, class k gets n·counts[k]/Σ of
    them, rounded as Webster's method apportions seats (to within a window of as many samples as there are
    classes, which are in the order of classes). Equal counts give index mod classes.
    """
    if len(indices) == 0:
        return np.empty(0, np.int64)
    windows = int(indices.max()) // len(counts) + 1
    return _first(counts, len(counts) << (windows - 1).bit_length())[indices]


@lru_cache(maxsize=4)
def _first(counts: tuple[int, ...], length: int) -> NDArray[np.int64]:
    """The classes of the first `length` samples, whole windows of them.

    The j-th image of class k comes at (2j + 1) / counts[k]; up to the time (2·length + classes) / Σ counts
    there are at least `length` of them.
    """
    images = np.array(counts, np.float64)
    until = (2 * length + len(counts)) / images.sum()
    of_class = np.floor((until * images + 1) / 2).astype(np.int64)
    classes = np.repeat(np.arange(len(counts)), of_class)
    place = np.arange(len(classes)) - np.repeat(np.cumsum(of_class) - of_class, of_class)
    order = np.argsort((2 * place + 1) / images[classes], kind="stable")[:length]
    sequence = np.sort(classes[order].reshape(-1, len(counts)), axis=1).ravel()
    sequence.flags.writeable = False
    return sequence
