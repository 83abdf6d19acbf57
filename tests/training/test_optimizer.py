"""What an update does, and moments in 8 bits: less memory, nearly the same training, and a restart to the bit."""

import pytest
import torch

from progdistill.diffusion.names import LossWeight
from progdistill.errors import Interrupted
from progdistill.models.denoiser import Denoiser, build_denoiser
from progdistill.store.base import Store
from progdistill.training.gradients import gradient_norm
from progdistill.training.loop import train
from progdistill.training.objective import BaseObjective
from progdistill.training.optimizer import start_state, step
from progdistill.training.snapshots import latest_snapshot
from progdistill.training.state import TrainingState
from tests.training.conftest import JOB, MakeTask, settings, tiny

OBJECTIVE = BaseObjective(LossWeight.SNR_PLUS_ONE)


def wide() -> Denoiser:
    """Most parameters are in tensors of 4,096 numbers or more; smaller ones keep float32 moments."""
    return build_denoiser(tiny(base_channels=32, channel_multipliers=(1,)), seed=0)


def flat(model: Denoiser) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def updated(optimizer: str, gradient: float, limit: float, is_finite: bool = True) -> TrainingState:
    """A state after an update that is finite, then one with a gradient of one value everywhere."""
    state = TrainingState(wide(), settings(2, optimizer=optimizer))
    for value, finite in ((0.5, True), (gradient, is_finite)):
        for parameter in state.parameters:
            parameter.grad = torch.full_like(parameter, value)
        step(state.optimizer, state.parameters, gradient_norm(state.parameters), limit, torch.tensor(finite))
    return state


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_an_update_that_is_not_finite_leaves_weights_and_moments_untouched(optimizer: str) -> None:
    before = TrainingState(wide(), settings(2, optimizer=optimizer))
    for parameter in before.parameters:
        parameter.grad = torch.full_like(parameter, 0.5)
    step(before.optimizer, before.parameters, gradient_norm(before.parameters), 1.0, torch.tensor(True))
    after = updated(optimizer, torch.nan, 1.0, is_finite=False).tensors()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.tensors().items())


@pytest.mark.parametrize("limit", [1e-3, 1e6])
def test_the_gradient_is_clipped_as_torch_clips_it(limit: float) -> None:
    expected = TrainingState(wide(), settings(2))
    for value in (0.5, -2.0):
        for parameter in expected.parameters:
            parameter.grad = torch.full_like(parameter, value)
        torch.nn.utils.clip_grad_norm_(expected.parameters, limit)
        expected.optimizer.step()
    found = updated("adamw", -2.0, limit).tensors()
    for name, tensor in expected.tensors().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-9)


def test_the_moments_take_a_third_of_the_memory() -> None:
    sizes = []
    for optimizer in ("adamw", "adamw_8bit"):
        state = TrainingState(wide(), settings(1, optimizer=optimizer))
        start_state(state.optimizer, 0)
        sizes.append(sum(t.nbytes for name, t in state.tensors().items() if name.startswith("optimizer")))
    assert sizes[1] < 0.35 * sizes[0]


def test_it_trains_nearly_the_same(make_task: MakeTask) -> None:
    exact, eight_bit = wide(), wide()
    train(make_task(OBJECTIVE, settings(20)), exact, None)
    train(make_task(OBJECTIVE, settings(20, optimizer="adamw_8bit")), eight_bit, None)
    moved = (flat(exact) - flat(wide())).norm()
    assert 0 < (flat(eight_bit) - flat(exact)).norm() < 0.3 * moved


def test_a_stopped_training_goes_on_to_the_very_same_weights(make_task: MakeTask, store: Store) -> None:
    chosen = settings(6, ema_decay=0.9, optimizer="adamw_8bit")
    unbroken = train(make_task(OBJECTIVE, chosen), wide(), None)
    calls = iter(range(1, 100))
    with pytest.raises(Interrupted, match="after update 4 of 6"):
        train(make_task(OBJECTIVE, chosen, should_stop=lambda: next(calls) == 4), wide(), None)
    again = train(make_task(OBJECTIVE, chosen), wide(), latest_snapshot(store, JOB))
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in unbroken.weights.items())
