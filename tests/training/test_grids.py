"""Distillation on uneven grids: which times are trained, and pure noise where a grid begins below t = 1."""

import pytest
import torch
from torch import Tensor, nn

from progdistill.diffusion.grid import AngleGrid, FlowGrid, Grid, KarrasGrid, TrailingGrid
from progdistill.diffusion.names import LossWeight
from progdistill.diffusion.noise_schedules import DiscreteSchedule
from progdistill.models.conditioning import Conditioning
from progdistill.models.denoiser import Denoiser, build_denoiser, student_of
from progdistill.training.objective import DistillationObjective, times_of_steps
from progdistill.training.random import BatchRandom
from tests.training.conftest import tiny

LATENT = TrailingGrid(schedule=DiscreteSchedule(kind="scaled_linear", beta_start=0.00085, beta_end=0.012))
UNEVEN: list[Grid] = [LATENT, FlowGrid(shift=3), KarrasGrid(points=16)]
LABELS = {"label": torch.arange(64) % 10}


class Heard(nn.Module):
    """Keeps what the student is asked at."""

    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor, t: Tensor, conditioning: Conditioning | None, w: Tensor | None) -> Tensor:
        """The student's output."""
        self.z, self.t = z, t
        output: Tensor = self.model(z, t, conditioning, w)
        return output


def trained_at(grid: Grid, steps: int, teacher_steps: int = 2) -> tuple[Heard, Tensor]:
    """One update's states and times, and the noise that they were made with."""
    teacher = build_denoiser(tiny(), seed=0)
    heard = Heard(student_of(teacher, teacher.config))
    objective = DistillationObjective(teacher, steps, LossWeight.SNR_PLUS_ONE, grid=grid, teacher_steps=teacher_steps)
    source, again = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    loss = objective(heard.model, heard, torch.full((64, 1, 8, 8), 0.5), LABELS, BatchRandom(source, 64))
    assert loss.isfinite()
    torch.randint(1, steps + 1, (64,), generator=again)
    return heard, torch.randn(64, 1, 8, 8, generator=again)


@pytest.mark.parametrize("grid", UNEVEN, ids=str)
def test_a_student_is_trained_at_the_times_it_is_sampled_at(grid: Grid) -> None:
    heard, _ = trained_at(grid, 4)
    wanted = torch.tensor(grid.times(4)[:-1], dtype=torch.float64).float()
    assert set(heard.t.tolist()) == set(wanted.tolist())


@pytest.mark.parametrize("grid", [LATENT, KarrasGrid(points=16)], ids=str)
def test_where_a_grid_begins_below_1_its_first_state_is_pure_noise(grid: Grid) -> None:
    heard, noise = trained_at(grid, 4)
    first = heard.t == heard.t.max()
    assert 0 < first.sum() < 64
    assert torch.equal(heard.z[first], noise[first])
    assert not any(torch.equal(z, eps) for z, eps in zip(heard.z[~first], noise[~first], strict=True))


def test_a_grid_that_begins_at_1_is_pure_noise_there_anyway() -> None:
    heard, noise = trained_at(AngleGrid(), 2)
    assert torch.equal(heard.z[heard.t == 1], noise[heard.t == 1])


@pytest.mark.parametrize("teacher_steps", [2, 4])
def test_each_step_of_a_student_spans_steps_of_its_teacher(teacher_steps: int) -> None:
    grid = FlowGrid(shift=3)
    rows = times_of_steps(grid, 4, teacher_steps)
    assert rows.shape == (4, teacher_steps + 1)
    path = grid.times(4 * teacher_steps)
    for row, start in zip(rows.flip(0).tolist(), range(0, len(path) - 1, teacher_steps), strict=True):
        assert tuple(row) == path[start : start + teacher_steps + 1]


def test_a_student_learns_on_an_uneven_grid() -> None:
    torch.manual_seed(0)
    teacher = build_denoiser(tiny(), seed=0)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    student = student_of(teacher, teacher.config)
    objective = DistillationObjective(teacher, 2, LossWeight.SNR_PLUS_ONE, grid=LATENT, teacher_steps=4)
    optimizer, losses = torch.optim.Adam(student.parameters(), lr=2e-3), []
    for update in range(40):
        random = BatchRandom(torch.Generator().manual_seed(update % 4), 64)
        loss = objective(student, student, torch.zeros(64, 1, 8, 8), LABELS, random)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
