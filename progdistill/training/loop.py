"""The training loop: one for the base model and for every student."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from progdistill.data.loader import TrainingLoader
from progdistill.diffusion.noise import generator, seed_for
from progdistill.errors import DeviceMemoryError, Interrupted, NonFiniteError
from progdistill.models.denoiser import Denoiser
from progdistill.progress import Progress
from progdistill.store.failpoints import failpoint
from progdistill.training.config import LearningRateSchedule, Precision, TrainingSettings
from progdistill.training.devices import device_of_draws
from progdistill.training.distributed import Rank
from progdistill.training.execution import Execution, Reading
from progdistill.training.gradients import accumulate, gradient_norm, mean_over_ranks
from progdistill.training.memory import fitting_micro_batch, what_fits
from progdistill.training.objective import Objective
from progdistill.training.optimizer import step
from progdistill.training.profile import Work, part
from progdistill.training.random import BatchRandom
from progdistill.training.self_teacher import SelfTeacher
from progdistill.training.snapshots import Snapshot, SnapshotWriter
from progdistill.training.state import TrainingState

LOSS_POINTS = 100
"""Points of a stage's loss curve, each a mean over the updates since the one before."""


class TrainingHooks(NamedTuple):
    """What happens between updates."""

    snapshots: SnapshotWriter
    snapshot_interval_updates: int
    should_stop: Callable[[], bool]
    """Called after every update; where one rank's returns true, all stop."""
    snapshot_facts: dict[str, JsonValue] = {}
    """Recorded in every snapshot beside the training state."""
    watch: "Callable[[TrainingState, float], None] | None" = None
    """Called with the state and the loss after every update; must not change the model."""


class TrainingTask(NamedTuple):
    """What to train on what data, on which rank, and what happens between updates."""

    label: str
    """The name in progress lines and messages."""
    settings: TrainingSettings
    objective: Objective
    loader: TrainingLoader
    seed: int
    purpose: str
    """With `seed` and the update it decides all random numbers."""
    rank: Rank
    execution: Execution
    hooks: TrainingHooks
    new_parameters: frozenset[str] = frozenset()
    """Names of parameters that start at zero in a model that otherwise starts trained."""
    self_teacher: SelfTeacher | None = None
    """Of a student that learns from its own average."""
    work: Work | None = None
    """Gives the progress lines the model FLOPs utilization."""

    def describe_rate(self, updates_per_second: float) -> str:
        """Images a second, and where the work is known its share of what the device can do, for progress lines."""
        images = f" · {updates_per_second * self.settings.batch_size:,.4g} images/s"
        return images if self.work is None else f"{images} · MFU {self.work.utilization(updates_per_second):.1%}"


class Trained(NamedTuple):
    """The weights to publish (the moving average, if there is one) and how the training went."""

    weights: dict[str, Tensor]
    loss_curve: list[tuple[int, float]]
    seconds: float


def learning_rate_at(settings: TrainingSettings, update: int) -> float:
    """The learning rate of update 0, 1, …: linear warm-up, then constant or linear to zero."""
    rate = settings.learning_rate
    if settings.learning_rate_schedule is LearningRateSchedule.LINEAR_TO_ZERO:
        rate *= 1 - update / settings.updates
    return rate * min(1.0, (update + 1) / (settings.warmup_updates + 1))


def ema_decay_at(decay: float, update: int) -> float:
    """The decay after update 0, 1, …: it grows to `decay`, so that the random start is soon forgotten."""
    return min(decay, (1 + update) / (10 + update))


def train(task: TrainingTask, model: Denoiser, start: Snapshot | None) -> Trained:
    """Train a model for `task.settings.updates` updates.

    Interrupted and resumed training gives the same weights bit for bit, on the same machine with the same
    number of ranks, threads and micro-batches: batches, times, noise and dropped labels are functions of
    (seed, update), dropout of (seed, update, rank, micro-batch).

    Args:
        task: What to do; `task.execution` is the one that `place` was called with.
        model: On the rank's device, as `place` returned it; trained in place.
        start: The snapshot to resume from; None: start at update 0 with the model as it is.

    Returns:
        The weights to publish, and how the training went.

    Raises:
        Interrupted: `should_stop` returned true; a snapshot has been written.
        NonFiniteError: The loss or the gradient is NaN or infinite; raised on all ranks, with the weights as they were.
        DeviceMemoryError: A micro-batch does not fit in the device's memory.
    """
    model.train()
    state = TrainingState(model, task.settings, task.new_parameters, task.self_teacher)
    if start is not None:
        state.restore(start)
        start.close()
    network: nn.Module = model
    if task.rank.world_size > 1 and not task.execution.sharded:
        network = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    total, rates = task.settings.updates, task.describe_rate
    with Progress(task.label, total=total, unit="updates", start=state.update, describe_rate=rates) as progress:
        _Loop(task, state, network, progress).run()
    task.hooks.snapshots.join()  # A snapshot that could not be written no longer matters.
    return Trained(state.published_weights(), state.loss_curve, state.seconds)


class _Loop:
    """The updates of one training. Each is settled while the device computes the next gradient, so that neither waits.

    An update with a loss or gradient that is not finite changes nothing, which the device decides by itself.
    """

    def __init__(self, task: TrainingTask, state: TrainingState, network: nn.Module, progress: Progress) -> None:
        self._task, self._state, self._network, self._progress = task, state, network, progress
        self._unsettled: Reading | None = None
        """Of the last update: loss, number of ranks that were asked to stop, norm of the gradient."""
        self._asked_to_stop = False
        self._micro_batch_size = task.execution.micro_batch_size or _fitting_micro_batch(task, state)

    def run(self) -> None:
        state, total = self._state, self._task.settings.updates
        while state.update < total:
            loss, norm = self._gradient()
            self._settle()
            self._make_update(loss, norm)
            if state.update % self._task.hooks.snapshot_interval_updates == 0 and state.update < total:
                self._settle()
                _save(self._task.hooks, state)
        self._settle()

    def _gradient(self) -> tuple[Tensor, Tensor]:
        """Loss, with the number of ranks that were asked to stop, and norm of the gradient: the same on every rank."""
        task, state = self._task, self._state
        settings, rank, update = task.settings, task.rank, state.update
        with part("data"):
            batch = task.loader.batch(update)
            config = state.model.config
            # Where states do not come from data, only the shape of x counts.
            x = batch.x if batch.x is not None else torch.zeros(task.loader.local_size, *config.network.sample_shape)
            x = x.to(rank.device, non_blocking=True)
            columns = [column.name for column in config.network.columns]
            found = {name: batch.conditioning[name].to(rank.device, non_blocking=True) for name in columns}
            conditioning = found or None
        # Every rank draws with the generator of rank 0.
        source = generator(task.seed, task.purpose, update, 0, device=device_of_draws(rank.device))
        random = BatchRandom(source, settings.batch_size, rank.rank, rank.world_size, rank.device, update)
        # Dropout draws from the global generator, differently on each rank.
        torch.manual_seed(seed_for(task.seed, f"{task.purpose}, dropout", update, rank.rank))
        state.optimizer.zero_grad(set_to_none=True)
        size, held = self._micro_batch_size, _held_bytes(state, rank.device)
        try:
            loss = accumulate(task.objective, state.model, self._network, x, conditioning, random, size)
        except torch.OutOfMemoryError as error:
            raise DeviceMemoryError(
                f"{min(size or len(x), len(x))} images at a time do not fit in the device's memory"
                f" ({error}): {_advice(task, state, held)}; training resumes from its last snapshot (docs/gpu.md)"
            ) from None
        with part("exchange"):
            loss_and_stops = mean_over_ranks(loss, self._asked_to_stop, rank.world_size)
        with part("optimizer"):
            return loss_and_stops, gradient_norm(state.parameters)

    def _make_update(self, loss_and_stops: Tensor, norm: Tensor) -> None:
        state, settings = self._state, self._task.settings
        with part("optimizer"):
            numbers = torch.cat((loss_and_stops, norm[None]))
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate_at(settings, state.update) * group["rate_factor"]
            step(state.optimizer, state.parameters, norm, settings.gradient_clip_norm, numbers.isfinite().all())
        self._unsettled = Reading(numbers)
        state.update += 1
        # Before this update is settled comes the next gradient: what an objective reads of the state changes here.
        if state.self_teacher is not None:
            state.self_teacher.follow()

    def _settle(self) -> None:
        """Finish the last update: the moving average follows, and what watches or stops the training sees it."""
        if self._unsettled is None:
            return
        task, state, hooks = self._task, self._state, self._task.hooks
        with part("waiting"):
            (loss, ranks_to_stop, norm), self._unsettled = self._unsettled.values(), None
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NonFiniteError(
                f"loss {loss} and gradient norm {norm} at update {state.update - 1} are not finite;"
                " no update was made from it. Lower the learning rate (--set distill.learning_rate=…,"
                " --set base.learning_rate=…) or look at the data"
            )
        if task.settings.ema_decay is not None:
            weight = 1 - ema_decay_at(task.settings.ema_decay, state.update - 1)
            with part("optimizer"):
                torch._foreach_lerp_(state.average, [p.detach() for p in state.parameters], weight)
        _record_loss(state, loss, task.settings.updates)
        self._progress.advance(loss=loss)
        if hooks.watch is not None:
            hooks.watch(state, loss)
        failpoint("training.update")
        self._asked_to_stop = hooks.should_stop()
        # Several ranks stop together, one update after the first was asked to.
        if ranks_to_stop or (self._asked_to_stop and task.rank.world_size == 1):
            _save(hooks, state)
            hooks.snapshots.wait()
            raise Interrupted(f"stopped after update {state.update} of {task.settings.updates}; saved")


def _held_bytes(state: TrainingState, device: torch.device) -> int:
    """What a GPU holds beside activations; gradients and moments included, which come with the first update."""
    if device.type != "cuda":
        return 0
    trained = sum(parameter.nbytes for parameter in state.parameters)
    moments = 0 if state.optimizer.state else 2 * trained
    return torch.cuda.memory_allocated(device) + trained + moments


def _fitting_micro_batch(task: TrainingTask, state: TrainingState) -> int | None:
    """What fits on a GPU; all elsewhere, and with FSDP, whose ranks must make equally many passes."""
    if task.rank.device.type != "cuda" or task.execution.sharded:
        return None
    free, how = _room(task, state, _held_bytes(state, task.rank.device))
    return fitting_micro_batch(state.model.config, task.loader.local_size, free, **how)


def _advice(task: TrainingTask, state: TrainingState, held_bytes: int) -> str:
    """What would fit on a GPU, where the memory is known."""
    if task.rank.device.type != "cuda" or task.execution.sharded:
        return "set or halve compute.micro_batch_size, or set compute.activation_checkpointing=true"
    free, how = _room(task, state, held_bytes)
    return what_fits(state.model.config, free, **how)


def _room(task: TrainingTask, state: TrainingState, held_bytes: int) -> tuple[int, dict[str, bool]]:
    """The bytes of a GPU beside what it holds, and how networks run in them."""
    how = {
        "bfloat16": task.execution.precision is Precision.BFLOAT16,
        "checkpointing": task.execution.activation_checkpointing,
        "frozen_bfloat16": any(parameter.dtype is torch.bfloat16 for parameter in state.model.network.parameters()),
    }
    return torch.cuda.get_device_properties(task.rank.device).total_memory - held_bytes, how


def _record_loss(state: TrainingState, loss: float, total: int) -> None:
    state.recent.append(loss)
    if state.update % max(1, total // LOSS_POINTS) == 0 or state.update == total:
        state.loss_curve.append((state.update, sum(state.recent) / len(state.recent)))
        state.recent = []


def _save(hooks: TrainingHooks, state: TrainingState) -> None:
    with part("snapshot"):
        tensors, pieces = state.tensors_to_save()
        facts = {**hooks.snapshot_facts, **state.facts().model_dump(mode="json")}
        hooks.snapshots.save(state.update, tensors, facts, pieces)
