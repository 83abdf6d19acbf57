"""The distillation target as Algorithm 2 states it, and points at which to compare."""

import torch
from torch import Tensor

from progdistill.diffusion.prediction import x_from_velocity
from progdistill.diffusion.schedule import coefficients, diffuse
from progdistill.diffusion.target import Velocity
from tests.diffusion.closed_forms import TWO_MODES


def equation_43(teacher: Velocity, z: Tensor, t: Tensor, steps: int) -> Tensor:
    """x̃ as the paper writes it, in the dtype of z; the teacher's answers are rounded to it."""
    times = t, t - 0.5 / steps, t - 1 / steps
    (alpha, sigma), (alpha1, sigma1), (alpha2, sigma2) = (
        [coefficient.to(z.dtype) for coefficient in coefficients(time, z)] for time in times
    )
    x = x_from_velocity(teacher(z, times[0]), z, times[0]).to(z.dtype)
    z1 = alpha1 * x + sigma1 / sigma * (z - alpha * x)
    x1 = x_from_velocity(teacher(z1, times[1]), z1, times[1]).to(z.dtype)
    z2 = alpha2 * x1 + sigma2 / sigma1 * (z1 - alpha1 * x1)
    return (z2 - sigma2 / sigma * z) / (alpha2 - sigma2 / sigma * alpha)


def grid(steps: int, count: int = 64) -> tuple[Tensor, Tensor]:
    """(z_t, t) at times of an N-step student from the last step's to t = 1, z drawn from the marginals."""
    t = torch.linspace(1, steps, count, dtype=torch.float64).round() / steps
    source = torch.Generator().manual_seed(steps)
    x = TWO_MODES.draw(count, source)
    return diffuse(x, torch.randn(count, 1, generator=source, dtype=torch.float64), t), t


def answering_in(dtype: torch.dtype) -> Velocity:
    """The exact denoiser of TWO_MODES, computed in float64 and rounded to `dtype`."""
    return lambda z, t: TWO_MODES.velocity(z.double(), t.double()).to(dtype)
