"""The random numbers of one update."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


class Draws:
    """Draws for the whole batch of an update, of which this rank takes its rows.

    So a sample meets the same times and noise whatever the number of ranks: several ranks differ from one in
    the order of sums alone.
    """

    def __init__(self, random: torch.Generator, batch_size: int, rank: int = 0, ranks: int = 1) -> None:
        """`batch_size` is the global one; `random` is in the same state on every rank."""
        self._random, self._batch_size = random, batch_size
        share = batch_size // ranks
        self._rows = slice(rank * share, (rank + 1) * share)

    def uniform(self) -> Float[Tensor, " batch"]:
        """Uniform in [0, 1), float32."""
        drawn = torch.rand(self._batch_size, generator=self._random, device=self._random.device)
        return drawn[self._rows]

    def integers(self, low: int, high: int) -> Int64[Tensor, " batch"]:
        """Uniform on low, …, high."""
        size = (self._batch_size,)
        drawn = torch.randint(low, high + 1, size, generator=self._random, device=self._random.device)
        return drawn[self._rows]

    def noise_like(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Standard Gaussian noise, float32; x is this rank's part."""
        shape = (self._batch_size, *x.shape[1:])
        return torch.randn(shape, generator=self._random, device=self._random.device)[self._rows]
