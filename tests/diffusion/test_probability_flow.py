"""Appendices A and B: the probability-flow ODE, and DDIM as an integrator of it, in float64."""

import math

import pytest
import torch
from torch import Tensor

from progdistill.diffusion.prediction import x_from_velocity
from progdistill.diffusion.schedule import alpha_sigma, log_snr, time_of_log_snr
from tests.diffusion.closed_forms import TWO_MODES, GaussianMixture, gaussian

T = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)
Z = torch.linspace(-2, 2, 49, dtype=torch.float64)[:, None]
data = pytest.mark.parametrize("data", [TWO_MODES, gaussian(0.3, 0.7)])


def derivative(of: Tensor, by: Tensor) -> Tensor:
    """d of[i]/d by[i] for of[i] a function of by[i]."""
    (slope,) = torch.autograd.grad(of.sum(), by, create_graph=True)
    return slope


def log_density(data: GaussianMixture, z: Tensor, t: Tensor) -> Tensor:
    """log p_t(z) of the diffused data, each component N(α·m, α²·s² + σ²)."""
    alpha, sigma = (c[:, None] for c in alpha_sigma(t))
    variance = alpha**2 * data.deviations**2 + sigma**2
    log_normal = -((z - alpha * data.means[:, 0]) ** 2) / (2 * variance) - variance.log() / 2
    return torch.logsumexp(data.shares.log() + log_normal, dim=1)


def drift_and_diffusion(t: Tensor) -> tuple[Tensor, Tensor]:
    """d log α/dt, which is f(z, t)/z, and g²(t) = dσ²/dt − 2·(d log α/dt)·σ², as below eq. 6."""
    alpha, sigma = alpha_sigma(t)
    drift = derivative(alpha.log(), t)
    return drift, derivative(sigma**2, t) - 2 * drift * sigma**2


@data
def test_the_denoiser_gives_the_score(data: GaussianMixture) -> None:
    """∇ log p_t(z) = (α·x̂ − z)/σ² (eq. 12), with x̂ from the closed form and the gradient from autograd."""
    z = Z.clone().requires_grad_()
    score = derivative(log_density(data, z, T), z)
    alpha, sigma = (c[:, None] for c in alpha_sigma(T))
    x = x_from_velocity(data.velocity(Z, T), Z, T)
    torch.testing.assert_close(score, (alpha * x - Z) / sigma**2, rtol=1e-9, atol=1e-9)


def test_drift_and_diffusion_in_terms_of_the_log_snr() -> None:
    """f = ½·σ²·(dλ/dt)·z (eq. 13) and g² = −σ²·dλ/dt (eq. 14), with α² = sigmoid(λ)."""
    t = T.clone().requires_grad_()
    drift, diffusion = drift_and_diffusion(t)
    (alpha, sigma), slope = alpha_sigma(t), derivative(log_snr(t), t)
    torch.testing.assert_close(alpha**2, torch.sigmoid(log_snr(t)))
    torch.testing.assert_close(drift, sigma**2 * slope / 2)
    torch.testing.assert_close(diffusion, -(sigma**2) * slope)


@data
def test_the_velocity_is_the_probability_flow(data: GaussianMixture) -> None:
    """[f − ½·g²·∇ log p] (eq. 6, 11, 15) = ½·(α·x̂ − α²·z)·dλ/dt (eq. 16–19) = (π/2)·v̂."""
    t, z = T.clone().requires_grad_(), Z.clone().requires_grad_()
    score = derivative(log_density(data, z, T), z)
    drift, diffusion = (c[:, None] for c in drift_and_diffusion(t))
    alpha, _ = (c[:, None] for c in alpha_sigma(t))
    v = data.velocity(Z, T)
    x = x_from_velocity(v, Z, T)
    flow = drift * Z - diffusion * score / 2
    torch.testing.assert_close(flow, (alpha * x - alpha**2 * Z) / 2 * derivative(log_snr(t), t)[:, None])
    torch.testing.assert_close(flow, math.pi / 2 * v)


@data
def test_ddim_follows_the_flow_to_first_order(data: GaussianMixture) -> None:
    """d z_s/dλ_s at s = t of the DDIM rule (eq. 20–25) is the right-hand side of eq. 19."""
    x = x_from_velocity(data.velocity(Z, T), Z, T)[:, 0]
    z, (alpha_t, sigma_t) = Z[:, 0], alpha_sigma(T)
    log_snr_s = log_snr(T).requires_grad_()
    alpha_s, sigma_s = alpha_sigma(time_of_log_snr(log_snr_s))
    z_s = sigma_s / sigma_t * (z - alpha_t * x) + alpha_s * x
    torch.testing.assert_close(derivative(z_s, log_snr_s), (alpha_t * x - alpha_t**2 * z) / 2)
    torch.testing.assert_close(derivative(alpha_s, log_snr_s), alpha_t * sigma_t**2 / 2)
    torch.testing.assert_close(derivative(sigma_s, log_snr_s), -sigma_t * alpha_t**2 / 2)
