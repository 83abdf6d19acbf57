"""Distillation without images: states come from the teacher's or the student's own way from noise."""

from typing import Any

import pytest
import torch
from torch import Tensor

from progdistill.data.dataset import DatasetInfo
from progdistill.data.loader import TrainingLoader
from progdistill.diffusion.names import LossWeight
from progdistill.diffusion.noise import generator
from progdistill.diffusion.samplers import ddim
from progdistill.models.denoiser import Denoiser, build_denoiser, student_of
from progdistill.training.objective import DistillationObjective, Trajectory
from progdistill.training.random import BatchRandom
from tests.training.conftest import tiny

STEPS, WEIGHT = 4, LossWeight.SNR_PLUS_ONE


class Recording(torch.nn.Module):
    """A network that keeps what it was asked."""

    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.model, self.asked = model, list[tuple[Tensor, Tensor]]()

    def forward(self, z: Tensor, t: Tensor, *rest: Any) -> Tensor:
        self.asked.append((z.detach().clone(), t.clone()))
        return self.model(z, t, *rest)


def states(trajectory: Trajectory, teacher: Denoiser, student: Denoiser, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The states and times that a student is trained at, and the noise that they began as."""
    labels = {"label": torch.arange(len(x)) % 10}
    random = BatchRandom(generator(5, "test", 0), len(x))
    network = Recording(student)
    objective = DistillationObjective(teacher, STEPS, WEIGHT, trajectory=trajectory)
    loss = objective(student, network, x, labels, random)
    assert torch.isfinite(loss)
    [(z, t)] = network.asked
    again = BatchRandom(generator(5, "test", 0), len(x))
    again.integers(1, STEPS)
    return z, t, again.noise_like(x)


@pytest.mark.parametrize("of_student", [False, True])
def test_states_are_those_that_a_sampler_of_that_model_passes(of_student: bool) -> None:
    teacher, other = build_denoiser(tiny(), 1), build_denoiser(tiny(), 2)
    x = torch.zeros(16, 1, 8, 8)
    z, t, noise = states(Trajectory(of_student=of_student, most_steps=100), teacher, other, x)
    assert set((t * STEPS).tolist()) == {1, 2, 3, 4}
    labels = {"label": torch.arange(16) % 10}
    own, steps = (other, STEPS) if of_student else (teacher, 2 * STEPS)
    passed: dict[float, Tensor] = {}

    def velocity(state: Tensor, time: Tensor) -> Tensor:
        passed[float(time[0])] = state
        return own.bind(labels)(state, time)

    with torch.no_grad():
        ddim(velocity, noise, [*(1 - step / steps for step in range(steps)), 0.0])
    for row in range(16):
        assert torch.allclose(z[row], passed[float(t[row])][row], atol=1e-5)


def test_images_do_not_matter() -> None:
    teacher = build_denoiser(tiny(), 1)
    student = student_of(teacher, teacher.config)
    for of_student in (False, True):
        trajectory = Trajectory(of_student=of_student, most_steps=2)
        zeros = states(trajectory, teacher, student, torch.zeros(8, 1, 8, 8))
        others = states(trajectory, teacher, student, torch.full((8, 1, 8, 8), torch.nan))
        assert torch.equal(zeros[0], others[0])


def test_a_loader_without_samples_gives_conditions_alone(digits: DatasetInfo) -> None:
    one = TrainingLoader(digits, batch_size=16, seed=3, flip=False, samples=False)
    x, conditioning = one.batch(0)
    assert x is None
    whole = TrainingLoader(digits, batch_size=16, seed=3, flip=False).batch(0)
    assert torch.equal(conditioning["label"], whole.conditioning["label"])
