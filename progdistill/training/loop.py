"""The training loop: one for the base model and for every student."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, JsonValue
from torch import Tensor, nn

from progdistill.artifacts.faults import reach
from progdistill.artifacts.snapshots import Snapshot, SnapshotWriter
from progdistill.data.loader import TrainingLoader
from progdistill.diffusion.noise import generator, seed_for
from progdistill.errors import LostInvariantError, WorkInterrupted
from progdistill.models.denoiser import Denoiser
from progdistill.progress import Progress
from progdistill.training.config import LearningRateSchedule, TrainingSettings
from progdistill.training.draws import Draws
from progdistill.training.objective import Objective

NEW_INPUT_RATE = 30.0
"""Times the learning rate for the weights of an input that the teacher lacks: they begin at zero where all
others begin trained, and Adam moves every weight by about the learning rate. On digits 200 updates at rate
1e-3 thus bring the loss of distilling guidance from 0.24 to 0.058; without the factor to 0.124, which is that
of the range's mean weight. Factor 100 gives 0.058 too."""

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
    ranks: int
    snapshots: SnapshotWriter
    snapshot_interval_updates: int
    snapshot_facts: dict[str, JsonValue]
    should_stop: Callable[[], bool]
    new_weights: frozenset[str] = frozenset()
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


class StateFacts(BaseModel):
    """What of a training state is no tensor; a snapshot may hold other facts beside."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    loss_curve: tuple[tuple[int, float], ...]
    recent: tuple[float, ...]
    seconds: float


class TrainingState:
    """Everything that a snapshot must hold for training to go on as if it had never stopped."""

    def __init__(
        self, model: Denoiser, settings: TrainingSettings, new_weights: frozenset[str] = frozenset()
    ) -> None:
        """`new_weights` are the names of those that begin at zero in a model that else begins trained."""
        self.model = model
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.parameters = [p for _, p in named]
        groups: list[dict[str, Any]] = [
            {"params": [p for name, p in named if name not in new_weights], "rate_factor": 1.0},
            {"params": [p for name, p in named if name in new_weights], "rate_factor": NEW_INPUT_RATE},
        ]
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=settings.learning_rate,
            betas=(settings.adam_beta1, settings.adam_beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )
        keeps_average = settings.ema_decay is not None
        self.average = [p.detach().clone() for p in self.parameters] if keeps_average else []
        self.update = 0
        self.loss_curve: list[tuple[int, float]] = []
        self.recent: list[float] = []
        self.earlier_seconds, self._began = 0.0, time.monotonic()

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name."""
        found = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        found |= {f"average.{index}": tensor for index, tensor in enumerate(self.average)}
        for index, parameter in enumerate(self.parameters):
            for name, value in self.optimizer.state[parameter].items():
                found[f"optimizer.{index}.{name}"] = value
        return found

    def restore(self, snapshot: Snapshot) -> None:
        """Put back what `tensors` gave, and the counters."""
        tensors = snapshot.load()
        prefix = "model."
        self.model.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        for index, average in enumerate(self.average):
            average.copy_(tensors[f"average.{index}"])
        for index, parameter in enumerate(self.parameters):
            names = ("step", "exp_avg", "exp_avg_sq")
            self.optimizer.state[parameter] = {
                name: tensors[f"optimizer.{index}.{name}"].to(parameter.device) for name in names
            }
        self.update = snapshot.update
        facts = StateFacts.model_validate(snapshot.facts)
        self.loss_curve, self.recent = list(facts.loss_curve), list(facts.recent)
        self.earlier_seconds = facts.seconds

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of training, with those of earlier processes up to their last snapshot."""
        return self.earlier_seconds + time.monotonic() - self._began

    def published_weights(self) -> dict[str, Tensor]:
        """The moving average where one is kept, else the weights; on the CPU."""
        weights = {name: tensor.detach() for name, tensor in self.model.state_dict().items()}
        if self.average:
            names = [name for name, p in self.model.named_parameters() if p.requires_grad]
            weights |= dict(zip(names, self.average, strict=True))
        return {name: tensor.cpu().contiguous() for name, tensor in weights.items()}


def train(task: TrainingTask, model: Denoiser, start: Snapshot | None) -> Trained:
    """Train until `settings.updates`, from `start` where there is a snapshot.

    Bit for bit the same weights come out whether training was interrupted or not, on the same machine with
    the same number of ranks and threads: batches, times, noise and dropped labels are functions of
    (seed, update), dropout of (seed, update, rank).

    Raises WorkInterrupted, after a last snapshot, when `should_stop` says so; LostInvariantError when the
    loss or the gradient is not finite, before it reaches a weight.
    """
    model.train()
    state = TrainingState(model, task.settings, task.new_weights)
    if start is not None:
        state.restore(start)
    network: nn.Module = model
    if task.ranks > 1:
        network = nn.parallel.DistributedDataParallel(model)
    total = task.settings.updates
    with Progress(task.label, total=total, unit="updates", start=state.update) as progress:
        while state.update < total:
            loss = _one_update(task, state, network)
            _record_loss(state, loss, total)
            progress.advance(loss=loss)
            if task.watch is not None:
                task.watch(state, loss)
            reach("training.update")
            if task.should_stop():
                _save(task, state)
                task.snapshots.wait()
                raise WorkInterrupted(f"{task.label} stopped after update {state.update} of {total}; saved")
            if state.update % task.snapshot_interval_updates == 0 and state.update < total:
                _save(task, state)
    task.snapshots.wait()
    return Trained(state.published_weights(), state.loss_curve, state.seconds)


def _one_update(task: TrainingTask, state: TrainingState, network: nn.Module) -> float:
    settings, update = task.settings, state.update
    batch = task.loader.batch(update)
    x = batch.images.to(task.device, non_blocking=True)
    has_classes = state.model.config.network.num_classes > 0
    labels = batch.labels.to(task.device, non_blocking=True) if has_classes else None
    random = generator(task.seed, task.purpose, update, 0, device=task.device)  # rank 0's, on every rank
    draws = Draws(random, settings.batch_size, task.rank, task.ranks)
    # Dropout draws from the global generator, on each rank something else.
    torch.manual_seed(seed_for(task.seed, task.purpose, update, task.rank))
    loss = task.objective(state.model, network, x, labels, draws)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(state.parameters, settings.gradient_clip_norm)
    value = float(loss.detach())
    if not (math.isfinite(value) and math.isfinite(float(norm))):
        raise LostInvariantError(
            f"{task.label}: loss {value} and gradient norm {float(norm)} at update {update} are not finite;"
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
    return value


def _record_loss(state: TrainingState, loss: float, total: int) -> None:
    state.recent.append(loss)
    if state.update % max(1, total // LOSS_POINTS) == 0 or state.update == total:
        state.loss_curve.append((state.update, sum(state.recent) / len(state.recent)))
        state.recent = []


def _save(task: TrainingTask, state: TrainingState) -> None:
    facts = StateFacts(loss_curve=tuple(state.loss_curve), recent=tuple(state.recent), seconds=state.seconds)
    task.snapshots.save(
        state.update, state.tensors(), {**task.snapshot_facts, **facts.model_dump(mode="json")}
    )
