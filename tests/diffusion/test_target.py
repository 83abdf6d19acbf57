"""The stable distillation target against Algorithm 2 as the paper writes it."""

import math

import pytest
import torch
from torch import Tensor

from progdistill.diffusion.ddim import ddim
from progdistill.diffusion.prediction import x_from_velocity
from progdistill.diffusion.schedule import alpha_sigma, coefficients
from progdistill.diffusion.target import Velocity, distillation_target
from tests.diffusion.closed_forms import TWO_MODES

STEPS = [2**k for k in range(14)]


def equation_43(teacher: Velocity, z: Tensor, t: Tensor, steps: int) -> Tensor:
    """x̃ by the lines of Algorithm 2, in the dtype of z."""
    times = t, t - 0.5 / steps, t - 1 / steps
    (alpha, sigma), (alpha1, sigma1), (alpha2, sigma2) = (coefficients(time, z) for time in times)
    x = x_from_velocity(teacher(z, times[0]).to(z.dtype), z, times[0])
    z1 = alpha1 * x + sigma1 / sigma * (z - alpha * x)
    x1 = x_from_velocity(teacher(z1, times[1]).to(z.dtype), z1, times[1])
    z2 = alpha2 * x1 + sigma2 / sigma1 * (z1 - alpha1 * x1)
    return (z2 - sigma2 / sigma * z) / (alpha2 - sigma2 / sigma * alpha)


def grid(steps: int, count: int = 64) -> tuple[Tensor, Tensor]:
    """(z, t) on the student's grid, both ends included, z as if drawn from the marginals."""
    t = torch.linspace(1, steps, count, dtype=torch.float64).round() / steps
    source = torch.Generator().manual_seed(steps)
    x = TWO_MODES.draw(count, source)
    alpha, sigma = alpha_sigma(t)
    eps = torch.randn(count, 1, generator=source, dtype=torch.float64)
    return alpha[:, None] * x + sigma[:, None] * eps, t


@pytest.mark.parametrize("steps", STEPS)
def test_the_target_is_equation_43(steps: int) -> None:
    z, t = grid(steps)
    x = x_from_velocity(distillation_target(TWO_MODES.velocity, z, t, steps), z, t)
    # The bound is the rounding error of equation 43 itself, which divides by sin δ/σ.
    assert (x - equation_43(TWO_MODES.velocity, z, t, steps)).abs().max() < 1e-15 * (4 + 4 * steps)


@pytest.mark.parametrize("steps", STEPS)
def test_one_student_step_lands_where_two_teacher_steps_do(steps: int) -> None:
    z, t = grid(steps)
    target = distillation_target(TWO_MODES.velocity, z, t, steps)
    delta = math.pi / (2 * steps)
    landed = math.cos(delta) * z - math.sin(delta) * target
    teacher = z
    for half in range(2):
        v = TWO_MODES.velocity(teacher, t - half / (2 * steps))
        teacher = math.cos(delta / 2) * teacher - math.sin(delta / 2) * v
    assert (landed - teacher).abs().max() < 1e-15


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_a_student_that_meets_its_target_samples_what_its_teacher_samples(steps: int) -> None:
    z = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]

    def student(z: Tensor, t: Tensor) -> Tensor:
        return distillation_target(TWO_MODES.velocity, z, t, steps)

    assert (ddim(student, z, steps) - ddim(TWO_MODES.velocity, z, 2 * steps)).abs().max() < 1e-14
