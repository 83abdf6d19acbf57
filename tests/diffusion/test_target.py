"""The stable distillation target against Algorithm 2 as in the paper."""

import math

import pytest
import torch
from torch import Tensor

from progdistill.diffusion.grid import AngleGrid, FlowGrid, Grid, KarrasGrid, TrailingGrid
from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.noise_schedules import DiscreteSchedule
from progdistill.diffusion.prediction import (
    SMALLEST_ALPHA_FOR_EPS,
    eps_from_velocity,
    velocity_from_output,
    x_from_velocity,
)
from progdistill.diffusion.samplers import ddim
from progdistill.diffusion.schedule import alpha_sigma
from progdistill.diffusion.target import distillation_target, target_along
from tests.diffusion.algorithm_2 import answering_in, equation_43, grid
from tests.diffusion.closed_forms import TWO_MODES

even = AngleGrid().times
STEPS = [2**k for k in range(14)]


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

    assert (ddim(student, z, even(steps)) - ddim(TWO_MODES.velocity, z, even(2 * steps))).abs().max() < 1e-14


@pytest.mark.parametrize("steps", STEPS)
def test_in_float32_the_error_stays_that_of_rounding(steps: int) -> None:
    """Against float64, with a teacher that answers exactly: what is left is the target's own arithmetic."""
    z, t = grid(steps)

    exact = distillation_target(TWO_MODES.velocity, z.float().double(), t, steps)
    target = distillation_target(answering_in(torch.float32), z.float(), t.float(), steps)
    assert target.dtype == torch.float32
    assert (target - exact).abs().max() < 4e-7


@pytest.mark.parametrize("steps", STEPS)
def test_a_bfloat16_teacher_gives_a_target_no_worse_than_its_own_rounding(steps: int) -> None:
    z, t = grid(steps)

    exact = distillation_target(TWO_MODES.velocity, z, t, steps)
    target = distillation_target(answering_in(torch.bfloat16), z.float(), t.float(), steps)
    assert target.dtype == torch.float32
    assert target.isfinite().all()
    # Both velocities are rounded to 8 bits: a relative error of 2⁻⁹ in each half of the sum, and the second
    # is asked at a place that the first one's rounding has moved.
    assert (target - exact).abs().max() < 2**-8 * exact.abs().max() * 1.5


def test_equation_43_as_written_loses_its_digits_where_the_stable_form_does_not() -> None:
    z, t = grid(4096)

    exact = x_from_velocity(distillation_target(TWO_MODES.velocity, z, t, 4096), z, t)
    written = equation_43(answering_in(torch.float32), z.float(), t.float(), 4096)
    v = distillation_target(answering_in(torch.float32), z.float(), t.float(), 4096)
    stable = x_from_velocity(v, z.float(), t.float())
    assert (written - exact).abs().max() > 1e-4
    assert (stable - exact).abs().max() < 1e-6


@pytest.mark.parametrize("prediction", PredictionType)
@pytest.mark.parametrize("steps", [2, 4, 512])
def test_a_teacher_of_any_prediction_type_gives_the_same_target(prediction: PredictionType, steps: int) -> None:
    """The target is a velocity: teacher and student need not predict the same. x* and ε* follow from it."""
    z, t = grid(steps)

    def teacher(z: Tensor, t: Tensor) -> Tensor:
        v = TWO_MODES.velocity(z, t)
        x, eps = x_from_velocity(v, z, t), eps_from_velocity(v, z, t)
        output = {
            PredictionType.X: x,
            PredictionType.V: v,
            PredictionType.EPS: eps,
            PredictionType.X_EPS: torch.cat((x, eps), dim=1),
        }[prediction]
        return velocity_from_output(output, z, t, prediction)

    if prediction is PredictionType.EPS:
        # Where α is below the least at which ε̂ is read, ε̂ says nothing: there is nothing to compare.
        known = alpha_sigma(t)[0] > SMALLEST_ALPHA_FOR_EPS
        z, t = z[known], t[known]
    target = distillation_target(teacher, z, t, steps)
    torch.testing.assert_close(target, distillation_target(TWO_MODES.velocity, z, t, steps), rtol=0, atol=1e-11)
    x = x_from_velocity(target, z, t)
    torch.testing.assert_close(x, equation_43(teacher, z, t, steps), rtol=0, atol=1e-11)


def test_a_student_with_a_quarter_of_its_teachers_steps_learns_two_teacher_steps_of_twice_the_size() -> None:
    """App. I: "the denoising target is still derived from taking 2 DDIM steps with the teacher"."""
    asked: list[float] = []

    def teacher(z: Tensor, t: Tensor) -> Tensor:
        asked.append(t[0].item())
        return TWO_MODES.velocity(z, t)

    z, t = grid(8)
    distillation_target(teacher, z, t, 8)
    assert asked == [1 / 8, 1 / 16]


def test_the_target_is_held_outside_of_autograd() -> None:
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    z, t = grid(4)
    target = distillation_target(lambda z, t: scale * TWO_MODES.velocity(z, t), z, t, 4)
    assert not target.requires_grad


UNEVEN: list[Grid] = [
    FlowGrid(shift=3),
    KarrasGrid(points=64),
    TrailingGrid(schedule=DiscreteSchedule(kind="scaled_linear", beta_start=0.00085, beta_end=0.012)),
]


@pytest.mark.parametrize("grid_of_times", [AngleGrid(), *UNEVEN], ids=str)
@pytest.mark.parametrize("teacher_steps", [1, 2, 4, 16])
@pytest.mark.parametrize("steps", [1, 4])
def test_on_any_grid_a_student_that_meets_its_target_samples_what_its_teacher_samples(
    grid_of_times: Grid, teacher_steps: int, steps: int
) -> None:
    z = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    path = torch.tensor(grid_of_times.times(steps * teacher_steps), dtype=torch.float64)

    def student(z: Tensor, t: Tensor) -> Tensor:
        start = int((path == t[0]).nonzero())
        return target_along(TWO_MODES.velocity, z, path[start : start + teacher_steps + 1].expand(len(z), -1))

    taken = ddim(TWO_MODES.velocity, z, grid_of_times.times(steps * teacher_steps))
    assert (ddim(student, z, grid_of_times.times(steps)) - taken).abs().max() < 1e-14


@pytest.mark.parametrize("steps", STEPS)
def test_on_even_angles_the_general_target_is_that_of_two_halves(steps: int) -> None:
    z, t = grid(steps)
    times = torch.stack((t, t - 0.5 / steps, t - 1 / steps), dim=1)
    even_target = distillation_target(TWO_MODES.velocity, z, t, steps)
    assert (target_along(TWO_MODES.velocity, z, times) - even_target).abs().max() < 1e-12


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("teacher_steps", [2, 4])
def test_in_float32_the_error_of_the_general_target_stays_that_of_rounding(steps: int, teacher_steps: int) -> None:
    """At the same times: what is left is the target's own arithmetic."""
    z, t = grid(steps)
    fractions = torch.linspace(0, 1, teacher_steps + 1, dtype=torch.float64) ** 1.5
    times = (t[:, None] - fractions / steps).clamp(min=0).float()
    exact = target_along(TWO_MODES.velocity, z.float().double(), times.double())
    target = target_along(answering_in(torch.float32), z.float(), times)
    assert target.dtype == torch.float32
    assert (target - exact).abs().max() < 1e-6


def test_the_flow_form_of_the_target_is_a_weighted_mean() -> None:
    """u* = w·u₁ + (1 − w)·u₂ with w = (τ − τ₁)/(τ − τ₂), u = ε − x at states (1 − τ)·x + τ·ε."""
    tau = torch.tensor([1.0, 0.7, 0.2], dtype=torch.float64)
    times = torch.atan2(tau, 1 - tau) / (math.pi / 2)
    z = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    rows = times.expand(len(z), -1)

    def flow_velocity(v: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return eps_from_velocity(v, z, t) - x_from_velocity(v, z, t)

    def norm(t: Tensor) -> Tensor:
        return sum(alpha_sigma(t))[:, None]

    v1 = TWO_MODES.velocity(z, rows[:, 0])
    u1 = flow_velocity(v1, z, rows[:, 0])
    state = z / norm(rows[:, 0]) - (tau[0] - tau[1]) * u1
    z1 = state * norm(rows[:, 1])
    u2 = flow_velocity(TWO_MODES.velocity(z1, rows[:, 1]), z1, rows[:, 1])
    share = (tau[0] - tau[1]) / (tau[0] - tau[2])
    wanted = share * u1 + (1 - share) * u2
    target = flow_velocity(target_along(TWO_MODES.velocity, z, rows), z, rows[:, 0])
    assert (target - wanted).abs().max() < 1e-13
