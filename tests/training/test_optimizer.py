"""What an update does: clipping, moments in 8 bits, Muon; each restarts to the bit."""

import pytest
import torch

from progdistill.diffusion.names import LossWeight
from progdistill.errors import Interrupted
from progdistill.models.denoiser import Denoiser, build_denoiser
from progdistill.store.base import Store
from progdistill.training.config import OptimizerName
from progdistill.training.gradients import gradient_norm
from progdistill.training.loop import train
from progdistill.training.muon import ITERATIONS, USUAL_UPDATE, orthogonalized
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


def updated(optimizer: OptimizerName, gradient: float, limit: float, is_finite: bool = True) -> TrainingState:
    """A state after an update that is finite, then one with a gradient of one value everywhere."""
    state = TrainingState(wide(), settings(2, optimizer=optimizer))
    for value, finite in ((0.5, True), (gradient, is_finite)):
        for parameter in state.parameters:
            parameter.grad = torch.full_like(parameter, value)
        step(state.optimizer, state.parameters, gradient_norm(state.parameters), limit, torch.tensor(finite))
    return state


@pytest.mark.parametrize("optimizer", OptimizerName)
def test_an_update_that_is_not_finite_leaves_weights_and_moments_untouched(optimizer: OptimizerName) -> None:
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
    found = updated(OptimizerName.ADAMW, -2.0, limit).tensors()
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


@pytest.mark.parametrize("optimizer", [OptimizerName.ADAMW_8BIT, OptimizerName.MUON])
def test_a_stopped_training_goes_on_to_the_very_same_weights(
    optimizer: OptimizerName, make_task: MakeTask, store: Store
) -> None:
    chosen = settings(6, ema_decay=0.9, optimizer=optimizer)
    unbroken = train(make_task(OBJECTIVE, chosen), wide(), None)
    calls = iter(range(1, 100))
    with pytest.raises(Interrupted, match="after update 4 of 6"):
        train(make_task(OBJECTIVE, chosen, should_stop=lambda: next(calls) == 4), wide(), None)
    again = train(make_task(OBJECTIVE, chosen), wide(), latest_snapshot(store, JOB))
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in unbroken.weights.items())


@pytest.mark.parametrize("shape", [(8, 8), (6, 40), (40, 6), (1, 9), (9, 1)])
def test_a_matrix_keeps_its_singular_vectors_and_their_values_become_alike(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    became = torch.diagonal(left.T @ orthogonalized(matrix) @ right.T)
    assert ITERATIONS == 5 and values.min() / values.norm() > 1e-2  # Smaller ones would need more iterations.
    assert became.min() > 0.6 and became.max() < 1.25
    torch.testing.assert_close(orthogonalized(matrix), left @ became.diag() @ right, atol=1e-9, rtol=0)


def test_muon_moves_matrices_along_their_momentum_and_all_else_as_adamw_does() -> None:
    found, adamw = wide(), wide()
    states = [TrainingState(model, settings(2, optimizer=name)) for model, name in ((found, "muon"), (adamw, "adamw"))]
    before = {name: p.detach().clone() for name, p in found.named_parameters()}
    gradients = [torch.randn(p.shape, generator=torch.Generator().manual_seed(0)) for p in states[0].parameters]
    for state in states:
        for parameter, gradient in zip(state.parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        step(state.optimizer, state.parameters, gradient_norm(state.parameters), 1e6, torch.tensor(True))
    rate, decay, others = settings(2).learning_rate, settings(2).adam_beta1, dict(adamw.named_parameters())
    for (name, parameter), gradient in zip(found.named_parameters(), gradients, strict=True):
        if parameter.ndim == 1 or "class_embedding" in name:
            torch.testing.assert_close(parameter, others[name])
            continue
        ahead = gradient.lerp(gradient * (1 - decay), decay).flatten(1)
        moved = rate * USUAL_UPDATE * max(ahead.shape) ** 0.5 * orthogonalized(ahead).view(parameter.shape)
        torch.testing.assert_close(parameter, before[name] - moved, rtol=0, atol=1e-6)
