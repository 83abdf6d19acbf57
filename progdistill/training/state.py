"""What a training is at an update: weights, moving average, optimizer and the curve so far."""

import math
import time
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from progdistill.models.denoiser import Denoiser
from progdistill.training.config import TrainingSettings
from progdistill.training.snapshots import FlatSlice, Snapshot


def is_shared_out(tensor: Tensor) -> bool:
    """Whether this is FSDP's kind of tensor, told without importing it, which takes a second."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """This rank's rows, or the tensor itself; no copy."""
    rows: Tensor = tensor.to_local() if is_shared_out(tensor) else tensor  # type: ignore[attr-defined]
    return rows


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor on every rank; all ranks must ask at once."""
    gathered: Tensor = tensor.full_tensor() if is_shared_out(tensor) else tensor  # type: ignore[attr-defined]
    return gathered


def flat_slice(tensor: Tensor) -> FlatSlice:
    """Where this rank's rows lie in the flattened tensor; FSDP splits the first dimension as torch.chunk."""
    rows = local(tensor)
    if not is_shared_out(tensor):
        return FlatSlice(rows.flatten(), 0, rows.numel())
    mesh = tensor.device_mesh  # type: ignore[attr-defined]
    rows_each = -(-tensor.shape[0] // mesh.size())
    first = min(mesh.get_local_rank() * rows_each, tensor.shape[0])
    # Not of tensor[0]: that would be an exchange between ranks.
    return FlatSlice(rows.flatten(), first * math.prod(tensor.shape[1:]), tensor.numel())


def load_shard(snapshot: Snapshot, name: str, tensor: Tensor) -> None:
    """Fill a tensor of any kind in place from a snapshot that ranks of any number and kind have written."""
    piece = flat_slice(tensor)
    if piece.tensor.numel() == 0:
        return  # more ranks than rows
    found = snapshot.read_flat(name, piece.offset, piece.tensor.numel())
    local(tensor).copy_(found.view(local(tensor).shape))


NEW_INPUT_RATE = 30.0
"""Times the learning rate for the weights of an input that the teacher lacks: they begin at zero where all
others begin trained, and Adam moves every weight by about the learning rate. On digits 200 updates at rate
1e-3 thus bring the loss of distilling guidance from 0.24 to 0.058; without the factor to 0.124, which is that
of the range's mean weight. Factor 100 gives 0.058 too."""


class StateFacts(BaseModel):
    """What of a training state is no tensor; a snapshot may hold other facts beside."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    loss_curve: tuple[tuple[int, float], ...]
    recent: tuple[float, ...]
    seconds: float


class TrainingState:
    """Everything that a snapshot must hold for training to go on as if it had never stopped.

    Under FSDP the weights, and with them average and optimizer, are this rank's share.
    """

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

    def tensors_to_save(self) -> tuple[dict[str, Tensor], dict[str, FlatSlice]]:
        """Those that every rank has whole, and this rank's pieces of the others."""
        found = self.tensors()
        pieces = {name: flat_slice(tensor) for name, tensor in found.items() if is_shared_out(tensor)}
        return {name: tensor for name, tensor in found.items() if name not in pieces}, pieces

    def facts(self) -> StateFacts:
        """What of the state is no tensor."""
        return StateFacts(loss_curve=tuple(self.loss_curve), recent=tuple(self.recent), seconds=self.seconds)

    def restore(self, snapshot: Snapshot) -> None:
        """Put back what `tensors` gave, and the counters, whatever ranks had saved them."""
        for parameter in self.parameters:
            self.optimizer.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                load_shard(snapshot, name, tensor)
        self.update = snapshot.update
        facts = StateFacts.model_validate(snapshot.facts)
        self.loss_curve, self.recent = list(facts.loss_curve), list(facts.recent)
        self.earlier_seconds = facts.seconds

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of training, with those of earlier processes up to their last snapshot."""
        return self.earlier_seconds + time.monotonic() - self._began

    def published_weights(self) -> dict[str, Tensor]:
        """The moving average where one is kept, else the weights; whole, and on the CPU. Ask on all ranks."""
        weights = {name: tensor.detach() for name, tensor in self.model.state_dict().items()}
        if self.average:
            names = [name for name, p in self.model.named_parameters() if p.requires_grad]
            weights |= dict(zip(names, self.average, strict=True))
        return {name: whole(tensor).cpu().contiguous() for name, tensor in weights.items()}
