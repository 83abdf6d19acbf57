"""Grids of times: nested, falling, and those of the stock schedulers."""

import math
from itertools import pairwise

import diffusers
import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from progdistill.diffusion.grid import AngleGrid, FlowGrid, Grid, KarrasGrid, TrailingGrid, for_ladder, grid_named
from progdistill.diffusion.noise_schedules import DiscreteSchedule, EDMSchedule, FlowSchedule
from progdistill.errors import UsageError

LATENT = DiscreteSchedule(kind="scaled_linear", beta_start=0.00085, beta_end=0.012)
GRIDS: list[Grid] = [AngleGrid(), TrailingGrid(schedule=LATENT), FlowGrid(), FlowGrid(shift=3), KarrasGrid(points=64)]
every_grid = pytest.mark.parametrize("grid", GRIDS, ids=str)


def ratios(times: tuple[float, ...]) -> list[float]:
    """σ/α at every time but the last."""
    return [math.tan(t * math.pi / 2) for t in times[:-1]]


@every_grid
@pytest.mark.parametrize("steps", [1, 2, 4, 16, 64])
def test_times_fall_from_the_noisy_end_to_0(grid: Grid, steps: int) -> None:
    times = grid.times(steps)
    assert len(times) == steps + 1
    assert 0.9 < times[0] <= 1
    assert times[-1] == 0
    assert all(later < earlier for earlier, later in pairwise(times))


@every_grid
@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16, 32])
def test_a_student_takes_every_second_time_of_its_teacher(grid: Grid, steps: int) -> None:
    assert grid.times(steps) == grid.times(2 * steps)[::2]


@every_grid
def test_a_grid_survives_json(grid: Grid) -> None:
    adapter: TypeAdapter[Grid] = TypeAdapter(Grid)
    assert adapter.validate_json(adapter.dump_json(grid)) == grid


def test_even_angles_are_exact() -> None:
    assert AngleGrid().times(8) == tuple(i / 8 for i in range(8, -1, -1))


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16, 64, 512])
def test_trailing_steps_are_those_of_diffusers(steps: int) -> None:
    """σ/α at the stock scheduler's own timesteps; it multiplies 1,000 factors in float32."""
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(steps)
    times = TrailingGrid(schedule=LATENT).times(steps)
    assert ratios(times) == pytest.approx(scheduler.sigmas[:-1].tolist(), rel=1e-4)
    assert ratios(times)[0] == pytest.approx(14.615, abs=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 30])
@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
def test_flow_steps_are_those_of_diffusers(steps: int, shift: float) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    times = FlowGrid(shift=shift).times(steps)
    tau = [math.sin(a) / (math.sin(a) + math.cos(a)) for a in (t * math.pi / 2 for t in times)]
    assert tau == pytest.approx(scheduler.sigmas.tolist(), abs=1e-6)
    assert times[0] == 1


@pytest.mark.parametrize("steps", [2, 4, 18])
def test_karras_steps_are_those_of_diffusers(steps: int) -> None:
    scheduler = diffusers.EDMEulerScheduler()
    scheduler.set_timesteps(steps)
    assert ratios(KarrasGrid().times(steps)) == pytest.approx(scheduler.sigmas[:-1].tolist(), rel=1e-5)


def test_a_student_of_a_karras_grid_uses_levels_of_its_teacher() -> None:
    scheduler = diffusers.EDMEulerScheduler()
    scheduler.set_timesteps(4, sigmas=torch.arange(0, 64, 16) / 63)  # it reads them as positions in the schedule
    assert ratios(KarrasGrid(points=64).times(4)) == pytest.approx(scheduler.sigmas[:-1].tolist(), rel=1e-5)


def test_a_ladder_fixes_the_levels_of_a_karras_grid_at_its_top() -> None:
    free = KarrasGrid(sigma_max=10)
    assert for_ladder(free, 32) == KarrasGrid(points=32, sigma_max=10)
    assert for_ladder(for_ladder(free, 32), 8) == KarrasGrid(points=32, sigma_max=10)
    assert for_ladder(FlowGrid(shift=2), 32) == FlowGrid(shift=2)


def test_a_number_of_steps_that_a_grid_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="1024 sampling steps on a grid of 1000 indices"):
        TrailingGrid(schedule=LATENT).times(1024)
    with pytest.raises(UsageError, match="choose a divisor of 64"):
        KarrasGrid(points=64).times(18)


def test_grids_are_named() -> None:
    edm = EDMSchedule(sigma_min=0.01, sigma_max=50)
    assert grid_named("angle", LATENT, 64) == AngleGrid()
    assert grid_named("trailing", LATENT, 64) == TrailingGrid(schedule=LATENT)
    assert grid_named("flow", FlowSchedule(), 64) == FlowGrid()
    assert grid_named("flow:3.5", None, 64) == FlowGrid(shift=3.5)
    assert grid_named("karras", edm, 64) == KarrasGrid(points=64, sigma_min=0.01, sigma_max=50)
    assert grid_named("karras", None, 64) == KarrasGrid(points=64)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("even", "unknown grid 'even'"),
        ("angle:2", "unknown grid 'angle:2'"),
        ("flow:0", "'0' is not a shift"),
        ("flow:x", "'x' is not a shift"),
        ("flow:nan", "'nan' is not a shift"),
        ("trailing", "discrete noise schedule"),
    ],
)
def test_other_names_are_refused(name: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        grid_named(name, None, 64)
