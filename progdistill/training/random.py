"""The random numbers of one update."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor

Images = Float[Tensor, "batch channels height width"]


class BatchRandom:
    """Random numbers of the whole batch of an update, of which each rank gets its rows.

    A sample thus meets the same times and noise at any number of ranks; only the order of sums differs.
    """

    def __init__(
        self,
        generator: torch.Generator,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str | None = None,
        update: int = 0,
    ) -> None:
        """Draw for a batch.

        Args:
            generator: In the same state on every rank.
            batch_size: Images of all ranks together.
            rank: Which rows to return.
            world_size: Number of ranks; divides `batch_size`.
            device: Where results go; None: the generator's device.
            update: Which one of the training this is, from 0.
        """
        self.update = update
        self._generator, self._batch_size = generator, batch_size
        self._device = generator.device if device is None else device
        share = batch_size // world_size
        self._rank_rows = slice(rank * share, (rank + 1) * share)
        self._drawn: list[Tensor] = []
        self._rows, self._next_index = slice(None), 0

    def slice(self, start: int, stop: int) -> "BatchRandom":
        """The random numbers of some of this rank's rows, for a micro-batch.

        Slices that draw the same numbers in the same order get the rows of the whole.
        """
        part = BatchRandom(self._generator, self._batch_size, device=self._device, update=self.update)
        part._rank_rows, part._drawn, part._rows = self._rank_rows, self._drawn, slice(start, stop)
        return part

    def uniform(self) -> Float[Tensor, " batch"]:
        """Uniform in [0, 1), float32."""
        return self._next(torch.rand, self._batch_size)

    def integers(self, low: int, high: int) -> Int64[Tensor, " batch"]:
        """Uniform on low, …, high."""
        return self._next(partial(torch.randint, low, high + 1), self._batch_size)

    def noise_like(self, x: Images) -> Images:
        """Standard Gaussian noise in float32; x holds this rank's rows, or those of the slice."""
        return self._next(torch.randn, self._batch_size, *x.shape[1:])

    def _next(self, draw: Callable[..., Tensor], *shape: int) -> Tensor:
        if self._next_index == len(self._drawn):
            whole = draw(shape, generator=self._generator, device=self._generator.device)
            self._drawn.append(whole[self._rank_rows].to(self._device))
        self._next_index += 1
        return self._drawn[self._next_index - 1][self._rows]
