"""The training loop: one for the base model and for every student."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from progdistill.data.loader import TrainingLoader
from progdistill.diffusion.noise import generator, seed_for
from progdistill.errors import Interrupted, LostInvariantError, UsageError
from progdistill.models.denoiser import Denoiser
from progdistill.progress import Progress
from progdistill.store.failpoints import failpoint
from progdistill.training.config import LearningRateSchedule, TrainingSettings
from progdistill.training.devices import device_of_draws
from progdistill.training.gradients import accumulate, clip_gradients, mean_over_ranks
from progdistill.training.objective import Objective
from progdistill.training.random import BatchRandom
from progdistill.training.snapshots import Snapshot, SnapshotWriter
from progdistill.training.state import TrainingState

LOSS_POINTS = 100
"""Points of a stage's loss curve, each a mean over the updates since the one before."""


class TrainingTask(NamedTuple):
    """What to train, on what, and where randomness and snapshots come from."""

    label: str
    settings: TrainingSettings
    objective: Objective
    loader: TrainingLoader
    seed: int
    purpose: str
    device: torch.device
    rank: int
    world_size: int
    snapshots: SnapshotWriter
    snapshot_interval_updates: int
    snapshot_facts: dict[str, JsonValue]
    should_stop: Callable[[], bool]
    new_weights: frozenset[str] = frozenset()
    micro_batch_size: int | None = None
    sharded: bool = False
    """Whether the model's weights are shared out among ranks (`placement.place`) instead of copied."""
    watch: "Callable[[TrainingState, float], None] | None" = None
    """Told the state and the loss after every update; it leaves weights and the model's mode as they are."""


class Trained(NamedTuple):
    """The weights to publish (the moving average where one is kept) and how the training went."""

    weights: dict[str, Tensor]
    loss_curve: list[tuple[int, float]]
    seconds: float


def learning_rate_at(settings: TrainingSettings, update: int) -> float:
    """The rate of update 0, 1, …: linear warm-up, then constant or linearly down to zero after the last."""
    rate = settings.learning_rate
    if settings.learning_rate_schedule is LearningRateSchedule.LINEAR_TO_ZERO:
        rate *= 1 - update / settings.updates
    return rate * min(1.0, (update + 1) / (settings.warmup_updates + 1))


def ema_decay_at(decay: float, update: int) -> float:
    """The decay after update 0, 1, …; it grows to `decay`, so that the random start is soon forgotten."""
    return min(decay, (1 + update) / (10 + update))


def train(task: TrainingTask, model: Denoiser, start: Snapshot | None) -> Trained:
    """Train until `settings.updates`, from `start` where there is a snapshot.

    Bit for bit the same weights come out whether training was interrupted or not, on the same machine with
    the same number of ranks, threads and micro-batches: batches, times, noise and dropped labels are
    functions of (seed, update), dropout of (seed, update, rank, micro-batch).

    Raises Interrupted, after a last snapshot, when `should_stop` says so; LostInvariantError when the
    loss or the gradient is not finite, on every rank alike and before it reaches a weight; UsageError when
    memory is too small.
    """
    model.train()
    state = TrainingState(model, task.settings, task.new_weights)
    if start is not None:
        state.restore(start)
    network: nn.Module = model
    if task.world_size > 1 and not task.sharded:
        network = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    total = task.settings.updates
    with Progress(task.label, total=total, unit="updates", start=state.update) as progress:
        while state.update < total:
            loss = _one_update(task, state, network)
            _record_loss(state, loss, total)
            progress.advance(loss=loss)
            if task.watch is not None:
                task.watch(state, loss)
            failpoint("training.update")
            if task.should_stop():
                _save(task, state)
                task.snapshots.wait()
                raise Interrupted(f"{task.label} stopped after update {state.update} of {total}; saved")
            if state.update % task.snapshot_interval_updates == 0 and state.update < total:
                _save(task, state)
    task.snapshots.join()  # A snapshot that could not be written is no loss any more.
    return Trained(state.published_weights(), state.loss_curve, state.seconds)


def _one_update(task: TrainingTask, state: TrainingState, network: nn.Module) -> float:
    settings, update = task.settings, state.update
    loss, norm = _gradient(task, state, network)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise LostInvariantError(
            f"{task.label}: loss {loss} and gradient norm {norm} at update {update} are not finite;"
            " the weights before it are kept. Lower the learning rate (--set distill.learning_rate=…,"
            " --set base.learning_rate=…) or look at the data"
        )
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate_at(settings, update) * group["rate_factor"]
    state.optimizer.step()
    if settings.ema_decay is not None:
        weight = 1 - ema_decay_at(settings.ema_decay, update)
        torch._foreach_lerp_(state.average, [p.detach() for p in state.parameters], weight)
    state.update += 1
    return loss


def _gradient(task: TrainingTask, state: TrainingState, network: nn.Module) -> tuple[float, float]:
    """The loss and the norm of the gradient, the same on every rank: all stop, or none."""
    settings, update = task.settings, state.update
    batch = task.loader.batch(update)
    x = batch.images.to(task.device, non_blocking=True)
    has_classes = state.model.config.network.num_classes > 0
    labels = batch.labels.to(task.device, non_blocking=True) if has_classes else None
    # Rank 0's generator, on every rank.
    random = generator(task.seed, task.purpose, update, 0, device=device_of_draws(task.device))
    draws = BatchRandom(random, settings.batch_size, task.rank, task.world_size, task.device)
    # Dropout draws from the global generator, on each rank something else, and nowhere the times and noise.
    torch.manual_seed(seed_for(task.seed, f"{task.purpose}, dropout", update, task.rank))
    state.optimizer.zero_grad(set_to_none=True)
    size = task.micro_batch_size
    try:
        loss = accumulate(task.objective, state.model, network, x, labels, draws, size)
    except torch.OutOfMemoryError as error:
        raise UsageError(
            f"{task.label}: {min(size or len(x), len(x))} images at a time do not fit in the device's memory"
            f" ({error}): halve compute.micro_batch_size or set it, or set"
            " compute.activation_checkpointing=true; training goes on from its last snapshot"
        ) from None
    norm = clip_gradients(state.parameters, settings.gradient_clip_norm)
    return mean_over_ranks(loss, task.world_size), norm


def _record_loss(state: TrainingState, loss: float, total: int) -> None:
    state.recent.append(loss)
    if state.update % max(1, total // LOSS_POINTS) == 0 or state.update == total:
        state.loss_curve.append((state.update, sum(state.recent) / len(state.recent)))
        state.recent = []


def _save(task: TrainingTask, state: TrainingState) -> None:
    tensors, pieces = state.tensors_to_save()
    facts = {**task.snapshot_facts, **state.facts().model_dump(mode="json")}
    task.snapshots.save(state.update, tensors, facts, pieces)
