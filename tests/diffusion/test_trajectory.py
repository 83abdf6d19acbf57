"""States on a model's own trajectory are the states that its sampler passes through."""

import math

import pytest
import torch
from torch import Tensor

from progdistill.diffusion.trajectory import state_on_trajectory

STEPS = 8
TIMES = [1 - step / STEPS for step in range(STEPS)]
"""Those that a student of 8 steps is asked at."""

NOISE = torch.randn(STEPS, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Counted:
    """A nonlinear velocity that counts its evaluations."""

    def __init__(self) -> None:
        self.calls: list[float] = []

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        self.calls.append(float(t[0]))
        return torch.tanh(z) * (1 + t[:, None, None, None])


def ddim_states(noise: Tensor) -> list[Tensor]:
    """The states before each step of DDIM, by its formula."""
    states, velocity = [noise], Counted()
    for t in TIMES[:-1]:
        delta = math.pi / (2 * STEPS)
        v = velocity(states[-1], torch.full((len(noise),), t, dtype=noise.dtype))
        states.append(math.cos(delta) * states[-1] - math.sin(delta) * v)
    return states


def test_each_sample_is_where_the_sampler_passes_at_its_time() -> None:
    found = state_on_trajectory(Counted(), NOISE, TIMES, torch.arange(STEPS), most_steps=STEPS)
    for position, state in enumerate(ddim_states(NOISE)):
        assert torch.allclose(found[position], state[position], rtol=0, atol=1e-13)
    assert torch.equal(found[0], NOISE[0])


def test_the_number_of_evaluations_depends_on_no_position() -> None:
    for positions in (torch.zeros(STEPS, dtype=torch.int64), torch.full((STEPS,), STEPS - 1)):
        velocity = Counted()
        state_on_trajectory(velocity, NOISE, TIMES, positions, most_steps=STEPS)
        assert velocity.calls == TIMES[:-1]


def test_long_trajectories_are_shortened() -> None:
    velocity = Counted()
    times = [1 - step / 1024 for step in range(1024)]
    found = state_on_trajectory(velocity, NOISE, times, torch.full((STEPS,), 1023), most_steps=16)
    assert len(velocity.calls) == 16
    exact = state_on_trajectory(Counted(), NOISE, times, torch.full((STEPS,), 1023), most_steps=1023)
    assert (found - exact).abs().max() < 0.2  # first-order, 64 steps at a time


@pytest.mark.parametrize("position", [0, 1, 5, 7])
def test_positions_of_other_samples_do_not_matter(position: int) -> None:
    mixed = state_on_trajectory(Counted(), NOISE, TIMES, torch.arange(STEPS), most_steps=3)
    same = state_on_trajectory(Counted(), NOISE, TIMES, torch.full((STEPS,), position), most_steps=3)
    assert torch.equal(mixed[position], same[position])
