"""Forward and reverse steps (eq. 1 and 3) against the algebra of Gaussians, in float64."""

import math

import pytest
import torch

from progdistill.diffusion.samplers import forward_variance, posterior_mean, posterior_variance
from progdistill.diffusion.schedule import alpha_sigma_at

PAIRS = [(1.0, 0.5), (1.0, 0.999), (0.7, 0.2), (0.5, 0.4), (0.5, 0.5 - 1 / 8192), (2 / 8192, 1 / 8192)]
pairs = pytest.mark.parametrize(("t", "s"), PAIRS)


@pairs
def test_a_forward_step_takes_one_marginal_to_the_next(t: float, s: float) -> None:
    """Var z_t = (α_t/α_s)²·σ_s² + σ²_{t|s} must be σ_t² (eq. 1)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma_at(t), alpha_sigma_at(s)
    assert (alpha_t / alpha_s * sigma_s) ** 2 + forward_variance(t, s) == pytest.approx(sigma_t**2, rel=1e-12)


@pairs
def test_the_forward_variance_is_as_the_paper_writes_it(t: float, s: float) -> None:
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma_at(t), alpha_sigma_at(s)
    ratio = (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2
    # 1 − e^(λ_t−λ_s) as a difference loses digits where the times are close: hence the looser bound.
    assert forward_variance(t, s) == pytest.approx((1 - ratio) * sigma_t**2, rel=1e-11)
    assert posterior_variance(t, s) == pytest.approx((1 - ratio) * sigma_s**2, rel=1e-11)


@pairs
def test_the_posterior_is_that_of_bayes(t: float, s: float) -> None:
    """q(z_s|z_t, x) ∝ q(z_t|z_s)·q(z_s|x): precisions add, and means weigh in by precision (eq. 3)."""
    (alpha_t, _), (alpha_s, sigma_s) = alpha_sigma_at(t), alpha_sigma_at(s)
    slope, prior, likelihood = alpha_t / alpha_s, 1 / sigma_s**2, 1 / forward_variance(t, s)
    precision = prior + slope**2 * likelihood
    z, x = torch.tensor([[0.7]], dtype=torch.float64), torch.tensor([[-0.3]], dtype=torch.float64)
    mean = (prior * alpha_s * x + slope * likelihood * z) / precision
    assert posterior_variance(t, s) == pytest.approx(1 / precision, rel=1e-11)
    assert posterior_mean(z, x, t, s).item() == pytest.approx(mean.item(), rel=1e-11)


def test_the_ends_are_no_special_cases() -> None:
    z, x = torch.tensor([[0.7]]), torch.tensor([[-0.3]])
    assert posterior_mean(z, x, 0.5, 0.0).item() == pytest.approx(-0.3)
    assert posterior_variance(0.5, 0.0) == 0
    # From pure noise z_s is drawn around α_s·x, as if z_t had not been seen.
    assert posterior_mean(z, x, 1.0, 0.5).item() == pytest.approx(math.sqrt(0.5) * -0.3)
    assert posterior_variance(1.0, 0.5) == pytest.approx(0.5)
