"""Batches for training, each a function of (seed, update) alone, however many ranks share it."""

import hashlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from progdistill.data.dataset import DatasetInfo
from progdistill.data.reading import read_split
from progdistill.errors import UsageError

Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


class Batch(NamedTuple):
    """Images float32 in [−1, 1] and their labels."""

    images: Float[Tensor, "batch channels height width"]
    labels: Int64[Tensor, " batch"]


class TrainingLoader:
    """Random access to the batches of an endless shuffled stream; the split is held in memory as uint8.

    Sample g of the stream is position g mod n of epoch g div n; update u takes samples
    u·batch_size .. (u+1)·batch_size − 1, and rank r the r-th of `ranks` equal consecutive parts of them.
    """

    def __init__(
        self,
        info: DatasetInfo,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        flip: bool,
        split: str = "train",
    ) -> None:
        """`batch_size` is global. Raises UsageError on settings that do not fit, else as `read_split`."""
        if ranks < 1 or not 0 <= rank < ranks:
            raise UsageError(f"rank {rank} of {ranks}: ranks count from 0 to one less than their number")
        # Equal parts: the mean of the ranks' gradients is then the gradient of the whole batch.
        if batch_size < 1 or batch_size % ranks:
            raise UsageError(f"batch size {batch_size} is not a positive multiple of the {ranks} ranks")
        if flip and not info.horizontal_flip_safe:
            raise UsageError(
                f"images of {info.name} change meaning when mirrored: switch horizontal flips off"
            )
        pixels, labels = read_split(info, split)
        self._images = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
        self._labels = torch.from_numpy(labels.copy())
        self._seed = seed
        self._batch_size = batch_size
        self._first = rank * (batch_size // ranks)
        self._part = batch_size // ranks
        self._flip = flip

    def batch(self, update: int) -> Batch:
        """This rank's part of the batch of `update` (counted from 0)."""
        if update < 0:
            raise ValueError(f"updates count from 0, not {update}")
        first = update * self._batch_size + self._first
        samples = np.arange(first, first + self._part, dtype=np.int64)
        chosen = torch.from_numpy(self._stored_indices(samples))
        images = self._images[chosen].to(torch.float32).div_(127.5).sub_(1)
        if self._flip:
            mirrored = torch.from_numpy(flips(self._seed, samples))
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        return Batch(images, self._labels[chosen])

    def close(self) -> None:
        """Let go of the images."""
        self._images = self._images[:0]
        self._labels = self._labels[:0]

    def _stored_indices(self, samples: Integers) -> Integers:
        images = len(self._labels)
        if images == 0:
            raise RuntimeError("the loader is closed")
        epochs, positions = np.divmod(samples, images)
        chosen = np.empty_like(samples)
        for epoch in np.unique(epochs):
            within = epochs == epoch
            chosen[within] = epoch_order(self._seed, int(epoch), images)[positions[within]]
        return chosen


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, images: int) -> Integers:
    """A permutation of 0..images−1, a function of (seed, epoch).

    Sorts Philox's raw words: NumPy keeps those for ever, but not what `Generator.permutation` makes of them.
    """
    words = np.random.Philox(key=_key(seed, "order", epoch)).random_raw(images)
    order = np.argsort(words, kind="stable").astype(np.int64)
    order.setflags(write=False)
    return order


def flips(seed: int, samples: Integers) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Whether each global sample is mirrored: the top bit of SplitMix64's word number `sample`."""
    key = np.uint64(_key(seed, "flip", 0) & 0xFFFFFFFFFFFFFFFF)
    word = key + (samples.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray((word ^ (word >> np.uint64(31))) >> np.uint64(63), dtype=np.bool_)


def _key(seed: int, purpose: str, index: int) -> int:
    """128 bits from SHA-256."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()[:16], "little")
