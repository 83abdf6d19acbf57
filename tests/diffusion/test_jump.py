"""TRACT and multistep consistency against exact flow maps, and the solvers of a teacher's single step."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from progdistill.diffusion.grid import AngleGrid, FlowGrid, Grid, KarrasGrid, TrailingGrid
from progdistill.diffusion.guidance import guided
from progdistill.diffusion.loss import weighted_loss
from progdistill.diffusion.names import LossName, LossWeight, PredictionType, SamplerName
from progdistill.diffusion.noise_schedules import DiscreteSchedule
from progdistill.diffusion.prediction import Velocity
from progdistill.diffusion.samplers import SAMPLERS, ddim
from progdistill.diffusion.schedule import alpha_sigma, coefficients, diffuse, turned
from progdistill.diffusion.target import jump_target
from progdistill.diffusion.teacher_step import addim_velocity, heun_velocity
from progdistill.training.jump_objective import jumps
from tests.diffusion.closed_forms import TWO_MODES, GaussianMixture, gaussian, mixture
from tests.diffusion.test_student import DATA, Student, distance, teacher

GRIDS: list[Grid] = [
    AngleGrid(),
    FlowGrid(shift=3),
    KarrasGrid(points=64),
    TrailingGrid(schedule=DiscreteSchedule(kind="scaled_linear", beta_start=0.00085, beta_end=0.012)),
]
Z = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]


def marginal(data: GaussianMixture, t: Tensor) -> GaussianMixture:
    """The distribution of z at one time."""
    alpha, sigma = alpha_sigma(t)
    deviations = (alpha**2 * data.deviations**2 + sigma**2).sqrt()
    return GaussianMixture(alpha * data.means, deviations, data.shares)


def flow_velocity(data: GaussianMixture, z: Tensor, t: Tensor, end: Tensor) -> Tensor:
    """The velocity of the exact jump of the probability flow from t to a later end, on the line."""
    before, after = marginal(data, t[0]), marginal(data, end[0])
    quantile = (before.shares * torch.special.ndtr((z - before.means[:, 0]) / before.deviations)).sum(1, keepdim=True)
    landed = after.flow_map(torch.special.ndtri(quantile))
    turn = turned(t, end, z)
    return (turn.cos() * z - landed) / turn.sin()


def times_of(*times: float) -> Tensor:
    return torch.tensor(times, dtype=torch.float64).expand(len(Z), -1)


def taught_by_itself(teacher: Velocity, grid: Grid, steps: int, factor: int) -> Velocity:
    """The student that has learned all: at each time its velocity is its target."""
    rows = jumps(grid, steps, factor)

    def student(z: Tensor, t: Tensor) -> Tensor:
        times = rows[int((rows[:, 0] == t[0]).nonzero())].expand(len(z), -1)
        if times[0, 1] == times[0, 2]:
            return teacher(z, t)
        return jump_target(teacher(z, t), student, z, times)

    return student


@pytest.mark.parametrize(("t", "s", "end"), [(1.0, 0.75, 0.5), (0.5, 0.375, 0.0), (0.25, 0.125, 0.0), (0.9, 0.2, 0.1)])
def test_the_exact_jump_is_a_fixed_point_of_an_exact_teacher(t: float, s: float, end: float) -> None:
    """Where the teacher steps along the flow, a student that jumps along it learns nothing new."""
    times = times_of(t, s, end)
    first = flow_velocity(TWO_MODES, Z, times[:, 0], times[:, 1])
    target = jump_target(first, lambda z, at: flow_velocity(TWO_MODES, z, at, times[:, 2]), Z, times)
    assert (target - flow_velocity(TWO_MODES, Z, times[:, 0], times[:, 2])).abs().max() < 1e-8


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize(("steps", "factor"), [(1, 8), (2, 4), (4, 2), (1, 64), (8, 8)])
def test_the_student_that_has_learned_all_samples_what_its_teacher_samples(grid: Grid, steps: int, factor: int) -> None:
    student = taught_by_itself(TWO_MODES.velocity, grid, steps, factor)
    wanted = ddim(TWO_MODES.velocity, Z, grid.times(steps * factor))
    assert (ddim(student, Z, grid.times(steps)) - wanted).abs().max() < 1e-13


def test_so_it_is_with_guidance() -> None:
    other = mixture(torch.tensor([[0.0]]), [0.6], [1.0])
    both = guided(TWO_MODES.velocity, other.velocity, 1.5)
    student = taught_by_itself(both, AngleGrid(), 2, 8)
    assert (ddim(student, Z, AngleGrid().times(2)) - ddim(both, Z, AngleGrid().times(16))).abs().max() < 1e-13


def test_its_distance_from_the_flow_falls_as_the_teachers_steps_do() -> None:
    def error(factor: int) -> float:
        student = taught_by_itself(TWO_MODES.velocity, AngleGrid(), 1, factor)
        return (ddim(student, Z, AngleGrid().times(1)) - TWO_MODES.flow_map(Z)).square().mean().sqrt().item()

    errors = [error(factor) for factor in (8, 16, 32, 64)]
    assert all(1.8 < coarse / fine < 2.2 for coarse, fine in pairwise(errors))


def test_one_step_of_the_teacher_errs_to_second_order_beside_an_exact_student() -> None:
    def error(step: float) -> float:
        times = times_of(0.8, 0.8 - step, 0.3)
        first = TWO_MODES.velocity(Z, times[:, 0])
        target = jump_target(first, lambda z, t: flow_velocity(TWO_MODES, z, t, times[:, 2]), Z, times)
        return (target - flow_velocity(TWO_MODES, Z, times[:, 0], times[:, 2])).abs().mean().item()

    errors = [error(2.0**-k) for k in (5, 6, 7, 8)]
    assert all(3.6 < coarse / fine < 4.4 for coarse, fine in pairwise(errors))


def test_at_the_end_of_its_step_the_student_does_not_count() -> None:
    """Not even where its answer is huge, as that of an x-network at t = 0 may be."""
    asked: list[Tensor] = []

    def student(z: Tensor, t: Tensor) -> Tensor:
        asked.append(t)
        return torch.full_like(z, 1e5)

    first = TWO_MODES.velocity(Z, times_of(0.125)[:, 0])
    target = jump_target(first, student, Z, times_of(0.125, 0.0, 0.0))
    assert torch.equal(target, first) or (target - first).abs().max() < 1e-15
    assert (asked[0] == 0.125).all()


@pytest.mark.parametrize("factor", [2, 8, 512])
def test_in_float32_the_error_stays_that_of_rounding(factor: int) -> None:
    times = jumps(AngleGrid(), 4, factor)
    z = torch.linspace(-2, 2, len(times), dtype=torch.float64)[:, None]
    exact = jump_target(TWO_MODES.velocity(z, times[:, 0]), TWO_MODES.velocity, z, times)

    def rounded(z: Tensor, t: Tensor) -> Tensor:
        return TWO_MODES.velocity(z.double(), t.double()).float()

    target = jump_target(rounded(z, times[:, 0]), rounded, z.float(), times.float())
    assert target.dtype == torch.float32 and (target - exact).abs().max() < 1e-5


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_steps_with_heuns_velocity_are_heuns_sampler(grid: Grid) -> None:
    path = torch.tensor(grid.times(8), dtype=torch.float64)

    def velocity(z: Tensor, t: Tensor) -> Tensor:
        end = path[int((path == t[0]).nonzero()) + 1]
        return heun_velocity(TWO_MODES.velocity, z, t, end.expand(len(z)))

    wanted = SAMPLERS[SamplerName.HEUN](TWO_MODES.velocity, Z, grid.times(8))
    assert (ddim(velocity, Z, grid.times(8)) - wanted).abs().max() < 1e-13


def second_moments(data: GaussianMixture, t: float, s: float, eta: float) -> tuple[float, float]:
    """After one step from t to s: the mean square of z per dimension, and what it should be."""
    source = torch.Generator().manual_seed(5)
    x = data.draw(4000, source)
    eps = torch.randn(x.shape, generator=source, dtype=torch.float64)
    now, later = (torch.full((len(x),), time, dtype=torch.float64) for time in (t, s))
    z = diffuse(x, eps, now)
    turn = turned(now, later, z)
    stepped = turn.cos() * z - turn.sin() * addim_velocity(data.velocity, x, z, now, later, eta)
    # With the same noise: what is left of the chance of drawing cancels.
    return stepped.square().mean().item(), diffuse(x, eps, later).square().mean().item()


@pytest.mark.parametrize(("t", "s"), [(0.9, 0.8), (0.6, 0.5), (0.3, 0.25), (0.1, 0.05)])
def test_addim_gives_back_the_variance_that_ddim_loses(t: float, s: float) -> None:
    data = gaussian(0.1, 0.4, dims=64)
    plain, wanted = second_moments(data, t, s, 0.0)
    adjusted, _ = second_moments(data, t, s, 1.0)
    assert plain < wanted
    assert abs(adjusted - wanted) < 0.15 * abs(plain - wanted)  # what is left is the chance of drawing


def test_addim_without_its_share_or_with_a_perfect_model_is_ddim() -> None:
    t, s = torch.full((41,), 0.5, dtype=torch.float64), torch.zeros(41, dtype=torch.float64)
    assert torch.equal(addim_velocity(TWO_MODES.velocity, Z, Z, t, s, 0.0), TWO_MODES.velocity(Z, t))

    def knows(z: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = coefficients(t, z)
        return (alpha * z - 0.3) / sigma

    x = torch.full_like(Z, 0.3)
    assert (addim_velocity(knows, x, Z, t, s, 1.0) - knows(Z, t)).abs().max() < 1e-9


@pytest.mark.parametrize(
    "prediction",
    [
        PredictionType.V,
        pytest.param(PredictionType.X, marks=pytest.mark.slow),
        pytest.param(PredictionType.X_EPS, marks=pytest.mark.slow),
    ],
)
def test_one_stage_of_tract_reaches_the_map_of_a_teacher_of_eight_times_its_steps(prediction: PredictionType) -> None:
    """8 → 1. The teacher itself, run with 1 step, misses its 8-step map by 0.63."""
    torch.manual_seed(0)
    student = Student(prediction)
    average = copy.deepcopy(student)
    rows = jumps(AngleGrid(), 1, 8).float()
    source = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(student.parameters(), lr=8e-3)
    for update in range(400):
        x = DATA.draw(256, source).float()
        times = rows[torch.randint(len(rows), (256,), generator=source)]
        z = diffuse(x, torch.randn(256, 2, generator=source), times[:, 0])
        target = jump_target(teacher(z, times[:, 0]), average.velocity, z, times)
        loss = weighted_loss(student(z, times[:, 0]), target, z, times[:, 0], prediction, LossWeight.TRUNCATED_SNR)
        optimizer.param_groups[0]["lr"] = 8e-3 * (1 - update / 400)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(student.parameters()), 0.5)
    assert distance(teacher, 1, teacher, 8) == pytest.approx(0.632, abs=1e-3)
    assert distance(student.velocity, 1, teacher, 8) < 0.2


@pytest.mark.parametrize("prediction", PredictionType)
@pytest.mark.parametrize("loss", LossName)
def test_every_loss_is_that_of_the_weighted_error(loss: LossName, prediction: PredictionType) -> None:
    source = torch.Generator().manual_seed(0)
    z, t = torch.randn(7, 5, generator=source).double(), torch.linspace(0.2, 0.9, 7, dtype=torch.float64)
    output = torch.randn(7, 5 * prediction.output_multiplier, generator=source).double()
    target = torch.randn(7, 5, generator=source).double()
    found = weighted_loss(output, target, z, t, prediction, LossWeight.TRUNCATED_SNR, loss)
    squared = weighted_loss(output, target, z, t, prediction, LossWeight.TRUNCATED_SNR)
    assert found.shape == (7,) and (found > 0).all()
    if loss is LossName.PSEUDO_HUBER:
        assert torch.allclose((found + 0.00054) ** 2, squared + 0.00054**2, rtol=1e-12)
    if loss is LossName.L1:
        assert (found <= squared.sqrt() + 1e-12).all()  # a mean of absolute values is below a root mean square
        one = weighted_loss(output[:, ::5], target[:, :1], z[:, :1], t, prediction, LossWeight.TRUNCATED_SNR)
        alone = weighted_loss(output[:, ::5], target[:, :1], z[:, :1], t, prediction, LossWeight.TRUNCATED_SNR, loss)
        assert torch.allclose(alone, one.sqrt(), rtol=1e-12)
