"""The Fréchet distance between two Gaussians, the measure behind FID (Heusel et al. 2017)."""

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

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
