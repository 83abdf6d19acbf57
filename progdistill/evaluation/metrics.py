"""Metrics of a set of images, computed from feature vectors: FID, KID, precision and recall, Inception Score.

Notation: features f ∈ ℝᵈ of m samples and n real images, with means μ and covariances Σ. Every sum, product
and decomposition is done in float64, whatever the dtype of the features.

| metric | range | best | function |
|---|---|---|---|
| Fréchet distance (FID for Inception's features) | [0, ∞) | 0 | `frechet_distance` |
| squared maximum mean discrepancy (KID) | about 0 and above | 0 | `kernel_distance` |
| precision, recall | [0, 1] | 1 | `precision_recall` |
| Inception Score | [1, classes] | classes | `inception_score` |
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from numpy.typing import NDArray
from torch import Tensor

Vector = Float64[Tensor, " dimensions"]
Matrix = Float64[Tensor, "dimensions dimensions"]
Samples = Float[Tensor, "m dimensions"]
Real = Float[Tensor, "n dimensions"]
Array = NDArray[np.float64]

BLOCK = 1024
"""Vectors that a stream gathers before it adds them up."""

_ROWS = 1024
"""Rows of a kernel or distance matrix computed at once: whole, it would take 800 MB for 10,000 vectors."""

# ---- Mean and covariance, in a stream ----------------------------------------------------------------------


class Moments(NamedTuple):
    """Number, mean μ and scatter S = Σ (f − μ)(f − μ)ᵀ of the feature vectors seen so far.

    The scatter is kept centered: sums of raw squares would lose the digits that the covariance consists of.
    """

    vectors: int
    mean: Vector
    scatter: Matrix

    @property
    def covariance(self) -> Matrix:
        """The unbiased covariance Σ = S / (vectors − 1); raises ValueError below two vectors."""
        if self.vectors < 2:
            raise ValueError(f"a covariance needs at least 2 feature vectors, not {self.vectors}")
        return self.scatter / (self.vectors - 1)


def moments_of(features: Float[Tensor, "count dimensions"]) -> Moments:
    """The moments, on the CPU, of a non-empty batch, computed where it is (a device with float64)."""
    wide = features.double()
    mean = wide.mean(dim=0)
    return Moments(len(wide), mean.cpu(), _gram(wide - mean))


def _gram(centered: Float64[Tensor, "count dimensions"]) -> Matrix:
    """XᵀX on the CPU. NumPy computes half of it, because it is symmetric."""
    if centered.device.type != "cpu":
        return (centered.T @ centered).cpu()
    rows = centered.numpy()
    return torch.from_numpy(rows.T @ rows)


def merge(first: Moments, second: Moments) -> Moments:
    """The moments of both sets of vectors together (Chan, Golub & LeVeque 1979).

    With δ = μ₂ − μ₁ and n = n₁ + n₂: μ = μ₁ + (n₂/n)·δ and S = S₁ + S₂ + (n₁·n₂/n)·δδᵀ.
    """
    count = first.vectors + second.vectors
    shift = second.mean - first.mean
    share = second.vectors / count
    return Moments(
        count,
        first.mean + share * shift,
        first.scatter + second.scatter + first.vectors * share * torch.outer(shift, shift),
    )


class MomentStream:
    """Moments of a stream of batches.

    Vectors are gathered into blocks: at 2048 dimensions a merge takes as long as the sums of 100 vectors.
    """

    def __init__(self) -> None:
        self._merged: Moments | None = None
        self._waiting: list[Tensor] = []

    def add(self, features: Float[Tensor, "count dimensions"]) -> None:
        """Add a batch of vectors, which must not change afterward."""
        self._waiting.append(features)
        if sum(map(len, self._waiting)) >= BLOCK:
            self._merge()

    def moments(self) -> Moments:
        """Of all vectors so far; raises ValueError if there were none."""
        if self._waiting:
            self._merge()
        if self._merged is None:
            raise ValueError("moments of no vectors")
        return self._merged

    def _merge(self) -> None:
        block = moments_of(torch.cat(self._waiting))
        self._merged = block if self._merged is None else merge(self._merged, block)
        self._waiting = []


# ---- Fréchet distance --------------------------------------------------------------------------------------


def frechet_distance(mean1: Vector, covariance1: Matrix, mean2: Vector, covariance2: Matrix) -> float:
    """The squared Fréchet distance of two Gaussians (Dowson & Landau 1982; FID: Heusel et al. 2017).

    ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2·tr (Σ₁Σ₂)^½, clamped at 0.

    With any root RRᵀ = Σ₁, Σ₁Σ₂ has the eigenvalues of the symmetric Rᵀ·Σ₂·R. Their roots sum to the last
    trace, so a symmetric eigendecomposition suffices. A matrix square root of the product, as others compute
    it, takes ten times as long and fails for the singular covariances of few samples.
    """
    cross = np.sqrt(_product_eigenvalues(covariance1.numpy(), covariance2.numpy()).clip(min=0)).sum()
    shift = (mean1 - mean2).square().sum()
    distance = float(shift + covariance1.trace() + covariance2.trace()) - 2 * float(cross)
    return max(distance, 0.0)


def _product_eigenvalues(first: Array, second: Array) -> Array:
    """Of the product of two covariances, in either order. NumPy: twice as fast as torch on AMD processors."""
    try:
        root = np.linalg.cholesky(first)
    except np.linalg.LinAlgError:
        first, second = second, first
        root = _root(first)
    return np.asarray(np.linalg.eigvalsh(root.T @ second @ root), np.float64)


def _root(covariance: Array) -> Array:
    """R with RRᵀ = Σ: Cholesky's, ten times as fast, unless Σ is singular."""
    try:
        return np.asarray(np.linalg.cholesky(covariance), np.float64)
    except np.linalg.LinAlgError:
        eigenvalues, vectors = np.linalg.eigh(covariance)
        return np.asarray(vectors * np.sqrt(eigenvalues.clip(min=0)), np.float64)


# ---- Kernel distance ---------------------------------------------------------------------------------------


def kernel_distance(samples: Samples, real: Real) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy (KID: Bińkowski et al. 2018, eq. 4).

    E k(x, x′) + E k(y, y′) − 2·E k(x, y) over pairs of different vectors, kernel k(a, b) = (a·b/d + 1)³.

    The mean is over all pairs. Others average over random subsets: equal in expectation, with more variance.
    The estimate can be slightly negative. Raises ValueError below two vectors in either set.
    """
    m, n = len(samples), len(real)
    if min(m, n) < 2:
        raise ValueError(f"a kernel distance needs 2 vectors in each set, not {m} and {n}")
    within_samples = (_kernel_sum(samples, samples) - _diagonal_sum(samples)) / (m * (m - 1))
    within_real = (_kernel_sum(real, real) - _diagonal_sum(real)) / (n * (n - 1))
    return within_samples + within_real - 2 * _kernel_sum(samples, real) / (m * n)


def subset_kernel_distance(samples: Samples, real: Real, subsets: int = 100, size: int = 1000) -> float:
    """The mean of `kernel_distance` over random subsets, as published (Bińkowski et al. 2018, section 4).

    Each subset has `size` vectors of either set, or as many as the smaller set has. The subsets are a function of the
    sizes of the sets alone.
    """
    random, size = np.random.default_rng(0), min(size, len(samples), len(real))
    total = 0.0
    for _ in range(subsets):
        rows = (torch.from_numpy(random.choice(len(vectors), size, replace=False)) for vectors in (samples, real))
        first, second = rows
        total += kernel_distance(samples[first], real[second])
    return total / subsets


def _kernel_sum(first: Samples, second: Real) -> float:
    other = second.double()
    total = 0.0
    for rows in torch.split(first, _ROWS):
        total += float((rows.double() @ other.T / first.shape[1] + 1).pow(3).sum())
    return total


def _diagonal_sum(features: Samples) -> float:
    return float((features.double().square().sum(dim=1) / features.shape[1] + 1).pow(3).sum())


# ---- Precision and recall ----------------------------------------------------------------------------------

_CDIST = "use_mm_for_euclid_dist"

NEIGHBORS = 3
"""k of Kynkäänniemi et al.: a vector's ball reaches its third nearest neighbor."""


def precision_recall(samples: Samples, real: Real, neighbors: int = NEIGHBORS) -> tuple[float, float]:
    """Improved precision and recall, each in [0, 1] (Kynkäänniemi et al. 2019, eqs. 1 and 2).

    The ball of a vector reaches its k-th nearest other vector of its own set. Precision is the share of
    samples in the ball of a real vector, recall the share of real vectors in the ball of a sample.

    Raises ValueError if a set does not have `neighbors` other vectors.
    """
    precision = _covered(samples, real, _radii(real, neighbors))
    recall = _covered(real, samples, _radii(samples, neighbors))
    return float(precision.double().mean()), float(recall.double().mean())


def _radii(features: Real, neighbors: int) -> Float[Tensor, " n"]:
    """The distance of each vector to its k-th nearest other vector."""
    if len(features) <= neighbors:
        raise ValueError(f"{len(features)} vectors do not have {neighbors} neighbors each")
    wide = features.double()
    distances = (torch.cdist(rows, wide, compute_mode=_CDIST) for rows in torch.split(wide, _ROWS))
    return torch.cat([part.kthvalue(neighbors + 1, dim=1)[0] for part in distances])


def _covered(queries: Samples, centers: Real, radii: Float[Tensor, " n"]) -> Bool[Tensor, " m"]:
    """Whether each query lies in the ball of at least one center."""
    wide = centers.double()
    distances = (torch.cdist(rows.double(), wide, compute_mode=_CDIST) for rows in torch.split(queries, _ROWS))
    return torch.cat([(part <= radii).any(dim=1) for part in distances])


# ---- Inception Score ---------------------------------------------------------------------------------------


class ScoreSums(NamedTuple):
    """Sums over samples x: of the class probabilities p(y|x), and of the negative entropies Σ_y p·log p."""

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
    """exp E_x KL(p(y|x) ‖ p(y)), in [1, classes] (Salimans et al. 2016), with all samples as one split.

    The divergence is E_x Σ_y p(y|x)·log p(y|x) − Σ_y p(y)·log p(y).
    """
    marginal = sums.probabilities / sums.samples
    divergence = sums.negative_entropy / sums.samples - torch.xlogy(marginal, marginal).sum()
    return float(torch.exp(divergence))
