"""Moments in 8 bits: a third of the memory or less, nearly the same training, and a restart to the bit."""

import pytest
import torch

from progdistill.diffusion.names import LossWeight
from progdistill.errors import Interrupted
from progdistill.models.denoiser import Denoiser, build_denoiser
from progdistill.store.base import Store
from progdistill.training.loop import train
from progdistill.training.objective import BaseObjective
from progdistill.training.optimizer import start_state
from progdistill.training.snapshots import latest_snapshot
from progdistill.training.state import TrainingState
from tests.training.conftest import JOB, MakeTask, settings, tiny

OBJECTIVE = BaseObjective(LossWeight.SNR_PLUS_ONE)


def wide() -> Denoiser:
    """Most parameters are in tensors of 4,096 numbers or more; smaller ones keep float32 moments."""
    return build_denoiser(tiny(base_channels=32, channel_multipliers=(1,)), seed=0)


def flat(model: Denoiser) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


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
