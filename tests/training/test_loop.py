"""The training loop: learning rates, the moving average, resuming, and what stops it."""

import math

import pytest
import torch
from torch import Tensor, nn

from progdistill.diffusion.names import LossWeight
from progdistill.errors import Interrupted, NonFiniteError
from progdistill.models.conditioning import Conditioning
from progdistill.models.denoiser import Denoiser, build_denoiser
from progdistill.store.base import Store
from progdistill.training.config import LearningRateSchedule
from progdistill.training.loop import ema_decay_at, learning_rate_at, train
from progdistill.training.objective import BaseObjective
from progdistill.training.random import BatchRandom
from progdistill.training.snapshots import latest_snapshot
from tests.training.conftest import JOB, MakeTask, settings, tiny

OBJECTIVE = BaseObjective(LossWeight.SNR_PLUS_ONE, label_dropout=0.2)
CONFIG = tiny(label_dropout=True, dropout=0.1)


def test_the_rate_warms_up_linearly_and_stays() -> None:
    chosen = settings(10, learning_rate=1.0, warmup_updates=3)
    assert [learning_rate_at(chosen, update) for update in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_the_rate_falls_linearly_and_would_be_zero_after_the_last_update() -> None:
    chosen = settings(4, learning_rate=1.0, learning_rate_schedule=LearningRateSchedule.LINEAR_TO_ZERO)
    assert [learning_rate_at(chosen, update) for update in range(4)] == [1, 0.75, 0.5, 0.25]
    assert learning_rate_at(chosen, 4) == 0


def test_the_decay_of_the_moving_average_grows_to_its_setting() -> None:
    decays = [ema_decay_at(0.9, update) for update in range(200)]
    assert decays[0] == 0.1 and decays == sorted(decays) and decays[-1] == 0.9


def test_the_published_weights_are_the_moving_average(make_task: MakeTask) -> None:
    model = build_denoiser(CONFIG, seed=0)
    average = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    passed = 0

    def follow() -> bool:
        nonlocal passed
        decay = ema_decay_at(0.8, passed)
        for name, parameter in model.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * parameter.detach().double()
        passed += 1
        return False

    trained = train(make_task(OBJECTIVE, settings(50, ema_decay=0.8), should_stop=follow), model, None)
    assert passed == 50
    for name, expected in average.items():
        torch.testing.assert_close(trained.weights[name].double(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(trained.weights["network.conv_in.weight"], model.network.conv_in.weight)


def test_without_a_moving_average_the_weights_are_published(make_task: MakeTask) -> None:
    model = build_denoiser(CONFIG, seed=0)
    trained = train(make_task(OBJECTIVE, settings(3)), model, None)
    assert all(torch.equal(trained.weights[name], p) for name, p in model.state_dict().items())


@pytest.mark.parametrize("ema_decay", [None, 0.9])
@pytest.mark.parametrize("stop_after", [1, 5])
def test_a_stopped_training_goes_on_to_the_very_same_weights(
    stop_after: int, ema_decay: float | None, make_task: MakeTask, store: Store
) -> None:
    chosen = settings(8, ema_decay=ema_decay, warmup_updates=2)
    unbroken = train(make_task(OBJECTIVE, chosen), build_denoiser(CONFIG, seed=0), None)
    calls = iter(range(1, 100))
    with pytest.raises(Interrupted, match=f"after update {stop_after} of 8"):
        train(
            make_task(OBJECTIVE, chosen, should_stop=lambda: next(calls) == stop_after),
            build_denoiser(CONFIG, seed=0),
            None,
        )
    snapshot = latest_snapshot(store, JOB)
    assert snapshot is not None and snapshot.update == stop_after
    again = train(make_task(OBJECTIVE, chosen), build_denoiser(CONFIG, seed=1), snapshot)
    assert again.loss_curve == unbroken.loss_curve
    assert again.weights.keys() == unbroken.weights.keys()
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in unbroken.weights.items())


class FailsAtThird:
    """Algorithm 1, whose third loss or gradient is not finite."""

    def __init__(self, what: str) -> None:
        self._what, self._calls = what, 0

    def __call__(
        self, model: Denoiser, network: nn.Module, x: Tensor, conditioning: Conditioning | None, draws: BatchRandom
    ) -> Tensor:
        loss = OBJECTIVE(model, network, x, conditioning, draws)
        self._calls += 1
        if self._calls < 3:
            return loss
        if self._what == "loss":
            return loss * math.nan
        return loss + (0 * model.network.conv_in.weight).sum().sqrt()  # the root is steepest at 0


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_training_before_it_reaches_a_weight(what: str, make_task: MakeTask) -> None:
    model = build_denoiser(CONFIG, seed=0)
    last: dict[str, Tensor] = {}

    def keep() -> bool:
        last.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return False

    with pytest.raises(NonFiniteError, match=r"at update 2 are not finite.*learning_rate"):
        train(make_task(FailsAtThird(what), settings(8), should_stop=keep), model, None)
    assert last and all(torch.equal(model.state_dict()[name], tensor) for name, tensor in last.items())


def test_ranks_draw_the_rows_of_one_batch() -> None:
    def drawn(rank: int, world_size: int) -> tuple[Tensor, ...]:
        draws = BatchRandom(torch.Generator().manual_seed(5), 12, rank, world_size)
        image = torch.empty(12 // world_size, 1, 8, 8)
        return draws.uniform(), draws.integers(1, 4), draws.noise_like(image), draws.uniform()

    alone = drawn(0, 1)
    parts = zip(*(drawn(rank, 3) for rank in range(3)), strict=True)
    assert all(torch.equal(torch.cat(part), whole) for part, whole in zip(parts, alone, strict=True))
    assert set(alone[1].tolist()) <= {1, 2, 3, 4}
