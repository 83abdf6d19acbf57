"""Classifier-free guidance in terms of velocities."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from progdistill.diffusion.grid import AngleGrid
from progdistill.diffusion.guidance import guidance_target, guided
from progdistill.diffusion.prediction import eps_from_velocity, x_from_velocity
from progdistill.diffusion.samplers import ddim
from progdistill.diffusion.target import distillation_target
from tests.diffusion.closed_forms import TWO_MODES, gaussian

even = AngleGrid().times
ONE_MODE = gaussian(0.5, 0.15)
T = torch.linspace(0.1, 1, 21, dtype=torch.float64)
Z = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None]
WEIGHTS = torch.linspace(0, 4, 21, dtype=torch.float64)


def test_without_weight_the_conditional_model_is_left_as_it_is() -> None:
    plain = guided(ONE_MODE.velocity, TWO_MODES.velocity, 0.0)
    assert torch.equal(plain(Z, T), ONE_MODE.velocity(Z, T))


@pytest.mark.parametrize("read", [x_from_velocity, eps_from_velocity])
def test_guiding_velocities_guides_x_and_eps_alike(read: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    guided_read = read(guided(ONE_MODE.velocity, TWO_MODES.velocity, 3.0)(Z, T), Z, T)
    informed, uninformed = (read(data.velocity(Z, T), Z, T) for data in (ONE_MODE, TWO_MODES))
    torch.testing.assert_close(guided_read, 4 * informed - 3 * uninformed)


def test_every_sample_can_have_its_own_weight() -> None:
    together = guided(ONE_MODE.velocity, TWO_MODES.velocity, WEIGHTS)(Z, T)
    for row, weight in enumerate(WEIGHTS.tolist()):
        alone = guided(ONE_MODE.velocity, TWO_MODES.velocity, weight)(Z[row : row + 1], T[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone)


def test_guidance_draws_samples_away_from_the_other_modes() -> None:
    z = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None]
    samples = [ddim(guided(ONE_MODE.velocity, TWO_MODES.velocity, w), z, even(64)) for w in (0.0, 1.0, 3.0)]
    lowest = [x.min().item() for x in samples]
    assert lowest[0] < lowest[1] < lowest[2]


def test_the_target_of_guided_distillation_is_the_guided_velocity_outside_of_autograd() -> None:
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)

    def conditional(z: Tensor, t: Tensor) -> Tensor:
        return scale * ONE_MODE.velocity(z, t)

    target = guidance_target(conditional, TWO_MODES.velocity, Z, T, WEIGHTS)
    assert not target.requires_grad
    assert torch.equal(target, guided(conditional, TWO_MODES.velocity, WEIGHTS)(Z, T).detach())


def test_a_guided_teacher_distills_like_any_other() -> None:
    teacher = guided(ONE_MODE.velocity, TWO_MODES.velocity, WEIGHTS)

    def student(z: Tensor, t: Tensor) -> Tensor:
        return distillation_target(teacher, z, t, 4)

    assert (ddim(student, Z, even(4)) - ddim(teacher, Z, even(8))).abs().max() < 1e-13
