"""Algorithm 2 end to end on data with a known denoiser: a two-dimensional Gaussian mixture."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from progdistill.diffusion.grid import AngleGrid
from progdistill.diffusion.loss import weighted_loss
from progdistill.diffusion.names import LossWeight, PredictionType
from progdistill.diffusion.prediction import velocity_from_output
from progdistill.diffusion.samplers import ddim
from progdistill.diffusion.schedule import diffuse
from progdistill.diffusion.target import Velocity, distillation_target
from tests.diffusion.closed_forms import mixture

even = AngleGrid().times
DATA = mixture(torch.tensor([[0.7, 0.0], [-0.35, 0.6], [-0.35, -0.6]]), [0.12, 0.12, 0.12], [0.5, 0.25, 0.25])


def teacher(z: Tensor, t: Tensor) -> Tensor:
    """The exact denoiser of the data, in float32."""
    return DATA.velocity(z.double(), t.double()).float()


class Student(nn.Module):
    """A small perceptron of (z, t)."""

    def __init__(self, prediction: PredictionType, width: int = 64) -> None:
        super().__init__()
        self.prediction = prediction
        self.layers = nn.Sequential(
            nn.Linear(2 + 8, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 2 * prediction.output_multiplier),
        )

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """The raw output."""
        waves = t[:, None] * math.pi * torch.tensor([0.5, 1.0, 2.0, 4.0])
        output: Tensor = self.layers(torch.cat((z, waves.sin(), waves.cos()), dim=1))
        return output

    def velocity(self, z: Tensor, t: Tensor) -> Tensor:
        """v̂ of the raw output."""
        return velocity_from_output(self(z, t), z, t, self.prediction)


def distill(student: Student, teacher: Velocity, steps: int, weight: LossWeight, updates: int, seed: int) -> None:
    """The inner loop of Algorithm 2, with the learning rate annealed linearly to zero (App. E)."""
    source = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(student.parameters(), lr=8e-3)
    for update in range(updates):
        x = DATA.draw(256, source).float()
        t = torch.randint(1, steps + 1, (256,), generator=source) / steps
        z = diffuse(x, torch.randn(256, 2, generator=source), t)
        target = distillation_target(teacher, z, t, steps)
        loss = weighted_loss(student(z, t), target, z, t, student.prediction, weight).mean()
        optimizer.param_groups[0]["lr"] = 8e-3 * (1 - update / updates)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def distance(one: Velocity, one_steps: int, other: Velocity, other_steps: int) -> float:
    """Root mean square distance of samples from the same noise."""
    z = torch.randn(2000, 2, generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        apart = ddim(one, z, even(one_steps)) - ddim(other, z, even(other_steps))
    return apart.square().sum(1).mean().sqrt().item()


def test_students_reach_the_map_of_a_teacher_with_twice_and_four_times_their_steps() -> None:
    """8 → 4 → 2. The teacher itself, run with 4 and 2 steps, misses its 8-step map by 0.170 and 0.390."""
    torch.manual_seed(0)
    student = Student(PredictionType.V)
    distill(student, teacher, 4, LossWeight.SNR_PLUS_ONE, updates=800, seed=1)
    assert distance(teacher, 4, teacher, 8) == pytest.approx(0.170, abs=1e-3)
    assert distance(student.velocity, 4, teacher, 8) < 0.06

    following = copy.deepcopy(student)
    distill(following, student.velocity, 2, LossWeight.SNR_PLUS_ONE, updates=300, seed=2)
    assert distance(teacher, 2, teacher, 8) == pytest.approx(0.390, abs=1e-3)
    assert distance(following.velocity, 2, student.velocity, 4) < 0.03
    assert distance(following.velocity, 2, teacher, 8) < 0.07


@pytest.mark.parametrize("prediction", [PredictionType.X, PredictionType.X_EPS])
def test_students_that_predict_otherwise_than_their_teacher_come_nearer_too(prediction: PredictionType) -> None:
    torch.manual_seed(0)
    student = Student(prediction)
    distill(student, teacher, 4, LossWeight.TRUNCATED_SNR, updates=400, seed=1)
    assert distance(student.velocity, 4, teacher, 8) < 0.6 * distance(teacher, 4, teacher, 8)
