"""The order of training images: a two-level shuffle for each epoch, a pure function of the seed.

An epoch permutes the shards, cuts them into windows of WINDOW_SHARDS, and permutes all images of a window. A dataset
of one window (up to 256 MiB of pixels) is permuted uniformly. In a larger one an image can still come at any position,
but images of one shard stay within one window. Since preparation assigns images to shards at random, this introduces no
bias of class or source order.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from progdistill.diffusion.noise import seed_for

WINDOW_SHARDS: Final = 32
"""Shards shuffled together. Changing it changes the order of training, and so the numerics."""

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX2: Final = np.uint64(0x94D049BB133111EB)


def random_bits(key: int, counters: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return 64 random bits per counter i ≥ 0: element i of the SplitMix64 sequence that starts at `key`.

    SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
    """
    bits = (counters.astype(np.uint64) + np.uint64(1)) * _GOLDEN + np.uint64(key)
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX2
    return bits ^ (bits >> np.uint64(31))


def random_order(key: int, count: int) -> NDArray[np.int64]:
    """Return a uniformly random permutation of 0..count-1: int64 [count]."""
    return np.argsort(random_bits(key, np.arange(count)), kind="stable")


class Positions(NamedTuple):
    """Where images are stored: the shard of each, and its row in that shard. Both int64 [count]."""

    shards: NDArray[np.int64]
    rows: NDArray[np.int64]


class _Epoch(NamedTuple):
    shards: NDArray[np.int64]
    """The shards in this epoch's order."""
    window_starts: NDArray[np.int64]
    """Position in the epoch of each window's first image; the last element is the number of images."""


class TrainingOrder:
    """Maps global sample indices, which count through all epochs, to stored images."""

    def __init__(self, rows_of_shards: Sequence[int], seed: int) -> None:
        self._rows = np.array(rows_of_shards, np.int64)
        self._seed = seed
        self.images = int(self._rows.sum())
        """Number of images in an epoch."""
        self._epoch = lru_cache(2)(self._permute_shards)
        self._window = lru_cache(4)(self._permute_images)

    def positions(self, start: int, count: int) -> Positions:
        """Return where the images of global sample indices start..start+count-1 are stored."""
        parts = []
        while count:
            epoch, window, first, end = self._window_at(start)
            permuted = self._window(epoch, window)
            part = slice(start - first, min(start + count, end) - first)
            parts.append(Positions(permuted.shards[part], permuted.rows[part]))
            count -= part.stop - part.start
            start += part.stop - part.start
        return Positions(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def shards_after(self, index: int) -> list[int]:
        """Return the shards of the window after the one that holds global sample index `index`."""
        epoch, window, _, _ = self._window_at(self._window_at(index)[3])
        return list(map(int, self._shards_of(epoch, window)))

    def _window_at(self, index: int) -> tuple[int, int, int, int]:
        """Return the epoch, the window, and the global sample indices of this and the next window's start."""
        epoch, position = divmod(index, self.images)
        starts = self._epoch(epoch).window_starts
        window = int(np.searchsorted(starts, position, side="right")) - 1
        base = epoch * self.images
        return epoch, window, base + int(starts[window]), base + int(starts[window + 1])

    def _permute_shards(self, epoch: int) -> _Epoch:
        shards = random_order(seed_for(self._seed, "data shards", epoch), len(self._rows))
        ends = np.cumsum(self._rows[shards])
        last_of_window = [*range(WINDOW_SHARDS - 1, len(shards) - 1, WINDOW_SHARDS), len(shards) - 1]
        return _Epoch(shards, np.concatenate([[0], ends[last_of_window]]))

    def _shards_of(self, epoch: int, window: int) -> NDArray[np.int64]:
        return self._epoch(epoch).shards[window * WINDOW_SHARDS : (window + 1) * WINDOW_SHARDS]

    def _permute_images(self, epoch: int, window: int) -> Positions:
        shards = self._shards_of(epoch, window)
        rows = self._rows[shards]
        order = random_order(seed_for(self._seed, "data images", epoch, window), int(rows.sum()))
        row_in_shard = np.arange(rows.sum()) - np.repeat(np.cumsum(rows) - rows, rows)
        return Positions(np.repeat(shards, rows)[order], row_in_shard[order])
