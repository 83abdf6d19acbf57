"""The Fréchet distance between two Gaussians, the measure behind FID (Heusel et al. 2017)."""

import torch
from jaxtyping import Float64
from torch import Tensor

Vector = Float64[Tensor, " dimensions"]
Matrix = Float64[Tensor, "dimensions dimensions"]


def frechet_distance(mean1: Vector, covariance1: Matrix, mean2: Vector, covariance2: Matrix) -> float:
    """‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2·tr (Σ₁Σ₂)^½, never below zero.

    Σ₁Σ₂ has the eigenvalues of the symmetric Σ₁^½·Σ₂·Σ₁^½, so two symmetric eigendecompositions do where a
    square root of the product would be slow, and would fail for the singular covariances of few samples.
    """
    root = _square_root(covariance1)
    eigenvalues = torch.linalg.eigvalsh(_symmetric(root @ covariance2 @ root))
    cross = eigenvalues.clamp(min=0).sqrt().sum()
    shift = (mean1 - mean2).square().sum()
    distance = shift + covariance1.trace() + covariance2.trace() - 2 * cross
    return max(float(distance), 0.0)


def _square_root(covariance: Matrix) -> Matrix:
    """The symmetric square root; rounding leaves tiny negative eigenvalues, which are zeros."""
    eigenvalues, vectors = torch.linalg.eigh(_symmetric(covariance))
    root: Tensor = (vectors * eigenvalues.clamp(min=0).sqrt()) @ vectors.T
    return root


def _symmetric(matrix: Matrix) -> Matrix:
    return (matrix + matrix.T) / 2
