"""The Fréchet distance against closed forms, SciPy's matrix square root and clean-fid's function."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from progdistill.evaluation.metrics import frechet_distance, moments_of


def _random_gaussian(dimensions: int, seed: int, rank: int | None = None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(dimensions, rank or 2 * dimensions, dtype=torch.float64, generator=generator)
    return torch.randn(dimensions, dtype=torch.float64, generator=generator), factor @ factor.T / dimensions


def test_a_gaussian_is_at_distance_zero_from_itself() -> None:
    mean, covariance = _random_gaussian(16, 0)
    assert frechet_distance(mean, covariance, mean, covariance) == pytest.approx(0, abs=1e-12)


def test_commuting_covariances_have_the_closed_form() -> None:
    """For diagonal covariances: Σ (μ₁ − μ₂)² + (√s₁ − √s₂)²."""
    mean1, mean2 = torch.tensor([0.0, 1.0]).double(), torch.tensor([3.0, 1.0]).double()
    distance = frechet_distance(
        mean1, torch.diag(torch.tensor([4.0, 9.0])).double(), mean2, torch.diag(torch.tensor([1.0, 25.0])).double()
    )
    assert distance == pytest.approx(9 + 1 + 4, rel=1e-12)


def test_it_equals_the_definition_by_a_matrix_square_root() -> None:
    (mean1, covariance1), (mean2, covariance2) = _random_gaussian(24, 1), _random_gaussian(24, 2)
    root = scipy.linalg.sqrtm((covariance1 @ covariance2).numpy()).real
    expected = (mean1 - mean2).square().sum() + covariance1.trace() + covariance2.trace() - 2 * np.trace(root)
    assert frechet_distance(mean1, covariance1, mean2, covariance2) == pytest.approx(float(expected), rel=1e-10)


def test_it_equals_clean_fids_function() -> None:
    from cleanfid.fid import frechet_distance as clean_fid_distance

    (mean1, covariance1), (mean2, covariance2) = _random_gaussian(64, 3), _random_gaussian(64, 4)
    expected = clean_fid_distance(mean1.numpy(), covariance1.numpy(), mean2.numpy(), covariance2.numpy())
    assert frechet_distance(mean1, covariance1, mean2, covariance2) == pytest.approx(expected, rel=1e-9)


def test_it_is_symmetric() -> None:
    first, second = _random_gaussian(12, 5), _random_gaussian(12, 6)
    assert frechet_distance(*first, *second) == pytest.approx(frechet_distance(*second, *first), rel=1e-12)


def test_singular_covariances_are_no_obstacle() -> None:
    """Rank 3 in 32 dimensions: on a common subspace the distance is that of the 3-dimensional Gaussians."""
    basis = torch.linalg.qr(torch.randn(32, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(7)))[0]
    (mean1, small1), (mean2, small2) = _random_gaussian(3, 8), _random_gaussian(3, 9)
    embedded = frechet_distance(basis @ mean1, basis @ small1 @ basis.T, basis @ mean2, basis @ small2 @ basis.T)
    assert embedded == pytest.approx(frechet_distance(mean1, small1, mean2, small2), rel=1e-6)


def test_fewer_samples_than_dimensions_give_a_finite_distance() -> None:
    generator = torch.Generator().manual_seed(10)
    few, many = (moments_of(torch.randn(n, 40, generator=generator)) for n in (5, 200))
    distance = frechet_distance(few.mean, few.covariance, many.mean, many.covariance)
    assert 0 < distance < 100


@pytest.mark.parametrize("world_size", [(16, 16), (16, 5), (5, 16), (5, 3)])
def test_either_or_both_may_be_singular(world_size: tuple[int, int]) -> None:
    """Against the singular values of the factors: tr (AAᵀBBᵀ)^½ = ‖AᵀB‖ in the nuclear norm."""
    random = torch.Generator().manual_seed(11)
    factors = [torch.randn(16, rank, dtype=torch.float64, generator=random) for rank in world_size]
    first, second = (factor @ factor.T for factor in factors)
    mean = torch.zeros(16).double()
    cross = torch.linalg.matrix_norm(factors[0].T @ factors[1], "nuc")
    expected = float(first.trace() + second.trace() - 2 * cross)
    assert frechet_distance(mean, first, mean, second) == pytest.approx(expected, rel=1e-6)
