"""Appendix D: the diffusion process and DDIM in terms of the angle φ and the velocity v, in float64."""

import math

import pytest
import torch
from torch import Tensor

from progdistill.diffusion.grid import AngleGrid
from progdistill.diffusion.prediction import eps_from_velocity, velocity_from_x_eps, x_from_velocity
from progdistill.diffusion.samplers import ddim
from progdistill.diffusion.schedule import alpha_sigma, alpha_sigma_at, diffuse, log_snr
from tests.diffusion.closed_forms import TWO_MODES

T = torch.linspace(0, 1, 51, dtype=torch.float64)
X = torch.linspace(-1, 1, 51, dtype=torch.float64)[:, None]
EPS = torch.linspace(2, -2, 51, dtype=torch.float64)[:, None] ** 3
Z1 = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None]


def test_the_angle_is_that_of_the_cosine_schedule() -> None:
    """φ = arctan(σ/α) = πt/2."""
    alpha, sigma = alpha_sigma(T)
    torch.testing.assert_close(torch.atan2(sigma, alpha), T * math.pi / 2)
    assert alpha_sigma_at(0.3) == pytest.approx([c[15].item() for c in (alpha, sigma)])


def test_v_is_the_velocity_of_z_along_the_circle() -> None:
    """v = dz_φ/dφ = cos φ·ε − sin φ·x (eq. 26)."""
    angle = (T * math.pi / 2).requires_grad_()
    z = torch.cos(angle) * X[:, 0] + torch.sin(angle) * EPS[:, 0]
    (slope,) = torch.autograd.grad(z.sum(), angle)
    torch.testing.assert_close(slope[:, None], velocity_from_x_eps(X, EPS, T))


def test_x_and_eps_are_coordinates_in_the_basis_of_z_and_v() -> None:
    """x = cos φ·z − sin φ·v (eq. 27–30) and ε = sin φ·z + cos φ·v, at both ends too."""
    z, v = diffuse(X, EPS, T), velocity_from_x_eps(X, EPS, T)
    torch.testing.assert_close(x_from_velocity(v, z, T), X)
    torch.testing.assert_close(eps_from_velocity(v, z, T), EPS)


def ddim_step(z: Tensor, x: Tensor, t: float, s: float) -> Tensor:
    """Eq. 7 as written."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma_at(t), alpha_sigma_at(s)
    return alpha_s * x + sigma_s * (z - alpha_t * x) / sigma_t


def ddim_step_in_log_snr(z: Tensor, x: Tensor, t: float, s: float) -> Tensor:
    """Eq. 8 as written, which has no value at t = 1 or s = 0."""
    (alpha_t, _), (alpha_s, _) = alpha_sigma_at(t), alpha_sigma_at(s)
    now, then = log_snr(torch.tensor([t, s], dtype=torch.float64)).tolist()
    ratio = math.exp((now - then) / 2)
    return ratio * alpha_s / alpha_t * z + (1 - ratio) * alpha_s * x


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 100])
def test_the_rotation_is_ddim(steps: int) -> None:
    """Eq. 38, which the sampler runs, against eq. 7, step by step from t = 1 to t = 0 (eq. 32–37)."""
    z = Z1
    for step in range(steps):
        t, s = 1 - step / steps, 1 - (step + 1) / steps
        times = torch.full((len(z),), t, dtype=torch.float64)
        x = x_from_velocity(TWO_MODES.velocity(z, times), z, times)
        landed = ddim_step(z, x, t, s)
        if t < 1 and s > 0:
            torch.testing.assert_close(landed, ddim_step_in_log_snr(z, x, t, s), rtol=1e-12, atol=1e-12)
        z = landed
    torch.testing.assert_close(ddim(TWO_MODES.velocity, Z1, AngleGrid().times(steps)), z, rtol=1e-12, atol=1e-12)


def test_one_step_of_ddim_is_x_predicted_from_noise() -> None:
    t = torch.ones(len(Z1), dtype=torch.float64)
    x = x_from_velocity(TWO_MODES.velocity(Z1, t), Z1, t)
    torch.testing.assert_close(ddim(TWO_MODES.velocity, Z1, (1.0, 0.0)), x)
