"""The random numbers of one update."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor


class BatchRandom:
    """BatchRandom for the whole batch of an update, of which this rank takes its rows.

    So a sample meets the same times and noise whatever the number of ranks: several ranks differ from one in
    the order of sums alone. Micro-batches take rows of the rank's (`of_rows`), to the same end.
    """

    def __init__(
        self,
        random: torch.Generator,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str | None = None,
    ) -> None:
        """`batch_size` is the global one; `random` is in the same state on every rank.

        What is drawn arrives on `device`; None: where `random` draws.
        """
        self._random, self._batch_size = random, batch_size
        self._device = random.device if device is None else device
        share = batch_size // world_size
        self._of_rank = slice(rank * share, (rank + 1) * share)
        self._drawn: list[Tensor] = []
        self._rows, self._asked = slice(None), 0

    def of_rows(self, rows: slice) -> "BatchRandom":
        """The part for some of this rank's rows: parts asked in the same order get the rows of the whole."""
        part = object.__new__(BatchRandom)
        part.__dict__.update(self.__dict__, _rows=rows, _asked=0)
        return part

    def uniform(self) -> Float[Tensor, " batch"]:
        """Uniform in [0, 1), float32."""
        size = self._batch_size
        return self._next(lambda: torch.rand(size, generator=self._random, device=self._random.device))

    def integers(self, low: int, high: int) -> Int64[Tensor, " batch"]:
        """Uniform on low, …, high."""
        size = (self._batch_size,)
        return self._next(
            lambda: torch.randint(low, high + 1, size, generator=self._random, device=self._random.device)
        )

    def noise_like(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Standard Gaussian noise, float32; x is this rank's part, or these rows of it."""
        shape = (self._batch_size, *x.shape[1:])
        return self._next(lambda: torch.randn(shape, generator=self._random, device=self._random.device))

    def _next(self, draw: Callable[[], Tensor]) -> Tensor:
        if self._asked == len(self._drawn):
            self._drawn.append(draw()[self._of_rank].to(self._device))
        self._asked += 1
        return self._drawn[self._asked - 1][self._rows]
