"""The student of the last updates, averaged, as its own teacher (TRACT, Berthelot et al. 2023)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from progdistill.models.denoiser import Denoiser


class SelfTeacher:
    """A moving average of the student's parameters. It is evaluated in the student's own network.

    So it needs no second network, whatever is wrapped, compiled, sharded or an adapter on a shared base.
    """

    def __init__(self, model: Denoiser, decay: float) -> None:
        """Start as the student is; `model` is placed on its device."""
        self._model, self._decay = model, decay
        self._parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def follow(self) -> None:
        """Move toward the student, after each of its updates."""
        torch._foreach_lerp_(self.average, self._parameters, 1 - self._decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The average in place of the student's weights."""
        own = [p.detach().clone() for p in self._parameters]
        self._write(self.average)
        try:
            yield
        finally:
            self._write(own)

    @torch.no_grad()
    def _write(self, weights: list[Tensor]) -> None:
        for parameter, weight in zip(self._parameters, weights, strict=True):
            parameter.copy_(weight)
        if hasattr(self._model, "reshard"):
            self._model.reshard()  # type: ignore[operator]  # FSDP keeps the outermost parameters whole after a forward pass.
