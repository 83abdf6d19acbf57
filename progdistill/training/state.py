"""The state of a training between updates."""

import time
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from progdistill.models.denoiser import Denoiser
from progdistill.training.config import TrainingSettings
from progdistill.training.optimizer import make_optimizer, start_state, state_tensors
from progdistill.training.self_teacher import SelfTeacher
from progdistill.training.sharding import flat_slice, full_tensor, is_dtensor, to_local
from progdistill.training.snapshots import FlatSlice, Snapshot


def load_shard(snapshot: Snapshot, name: str, tensor: Tensor) -> None:
    """Fill a tensor, sharded or not, in place from a snapshot of any world size."""
    piece = flat_slice(tensor)
    if piece.tensor.numel() == 0:
        return  # more ranks than rows
    found = snapshot.read(name, piece.offset, piece.tensor.numel())
    to_local(tensor).copy_(found.view(to_local(tensor).shape))


NEW_INPUT_RATE = 30.0
"""Factor on the learning rate of parameters that start at zero where all others start trained: Adam moves
every parameter by about the learning rate. On digits, 200 updates at rate 1e-3 bring the loss of distilling
guidance from 0.24 to 0.058; without the factor to 0.124, as if guidance were always at the middle of its
range. A factor of 100 also gives 0.058."""


class StateFacts(BaseModel):
    """The part of a training state that is not tensors; a snapshot may record other facts too."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    loss_curve: tuple[tuple[int, float], ...]
    recent: tuple[float, ...]
    seconds: float


class TrainingState:
    """All that a snapshot must hold: model, moving averages, optimizer and the loss curve so far.

    Under FSDP the tensors of model, average and optimizer are this rank's shards.
    """

    def __init__(
        self,
        model: Denoiser,
        settings: TrainingSettings,
        new_parameters: frozenset[str] = frozenset(),
        self_teacher: SelfTeacher | None = None,
    ) -> None:
        """Start at update 0; `new_parameters` names those that are trained at NEW_INPUT_RATE."""
        self.model = model
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.parameters = [p for _, p in named]
        self._names = [model.own_name(name) for name, _ in named]
        groups: list[dict[str, Any]] = [
            {"params": [p for name, p in named if name not in new_parameters], "rate_factor": 1.0},
            {"params": [p for name, p in named if name in new_parameters], "rate_factor": NEW_INPUT_RATE},
        ]
        tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
        self.optimizer = make_optimizer([group for group in groups if group["params"]], settings, tables)
        self.average = [] if settings.ema_decay is None else [p.detach().clone() for p in self.parameters]
        self.self_teacher = self_teacher
        self.update = 0
        self.loss_curve: list[tuple[int, float]] = []
        self.recent: list[float] = []
        self.earlier_seconds, self._began = 0.0, time.monotonic()

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name."""
        found = {f"model.{name}": tensor for name, tensor in self.model.own_weights().items()}
        found |= {f"average.{index}": tensor for index, tensor in enumerate(self.average)}
        if self.self_teacher is not None:
            found |= {f"self_teacher.{index}": tensor for index, tensor in enumerate(self.self_teacher.average)}
        for index, parameter in enumerate(self.parameters):
            for name, value in state_tensors(self.optimizer, parameter).items():
                found[f"optimizer.{index}.{name}"] = value
        return found

    def tensors_to_save(self) -> tuple[dict[str, Tensor], dict[str, FlatSlice]]:
        """The tensors that every rank has whole, and this rank's pieces of the others."""
        found = self.tensors()
        pieces = {name: flat_slice(tensor) for name, tensor in found.items() if is_dtensor(tensor)}
        return {name: tensor for name, tensor in found.items() if name not in pieces}, pieces

    def facts(self) -> StateFacts:
        """The part of the state that is not tensors."""
        return StateFacts(loss_curve=tuple(self.loss_curve), recent=tuple(self.recent), seconds=self.seconds)

    def restore(self, snapshot: Snapshot) -> None:
        """Restore tensors and counters from a snapshot of any world size."""
        start_state(self.optimizer, snapshot.update)
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                load_shard(snapshot, name, tensor)
        self.update = snapshot.update
        facts = StateFacts.model_validate(snapshot.facts)
        self.loss_curve, self.recent = list(facts.loss_curve), list(facts.recent)
        self.earlier_seconds = facts.seconds

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of training, earlier processes included up to their last snapshot."""
        return self.earlier_seconds + time.monotonic() - self._began

    def published_weights(self) -> dict[str, Tensor]:
        """The moving average if there is one, otherwise the weights, whole and on the CPU; call on all ranks."""
        weights = {name: tensor.detach() for name, tensor in self.model.own_weights().items()}
        if self.average:
            weights |= dict(zip(self._names, self.average, strict=True))
        return {name: full_tensor(tensor).cpu().contiguous() for name, tensor in weights.items()}
