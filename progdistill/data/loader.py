"""Feeds training: any update's images at once, in an order and with flips that the seed alone decides."""

import math
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from progdistill.artifacts.store import open_store
from progdistill.data.ahead import Ahead
from progdistill.data.counter_random import random_bits
from progdistill.data.dataset import DatasetInfo
from progdistill.data.order import TrainingOrder
from progdistill.data.reading import shards_of
from progdistill.data.rows import MemoryRows, RowReader, ShardRows
from progdistill.diffusion.noise import seed_for
from progdistill.errors import UsageError

IN_MEMORY_BYTES: Final = 256 * 2**20
"""A split of at most this many bytes of pixels is read whole when the loader opens."""

UPDATES_AHEAD: Final = 2
"""Batches made in the background beyond the one being trained on."""


class Batch(NamedTuple):
    """Images and their classes, one rank's part of an update."""

    images: Float[Tensor, "batch channels height width"]
    """In [-1, 1], contiguous."""
    labels: Int64[Tensor, " batch"]
    """0 where the dataset has no classes."""


class TrainingLoader:
    """The images of each update of a training job, for one of its ranks.

    Update u of global batch size B takes global sample indices u·B … u·B+B-1, which count through shuffled
    epochs without gaps; rank r of R takes the r-th R-th of them. So what is trained on is a function of the
    seed alone, whatever the number of ranks, and training goes on at any update.

    Images are flipped with probability ½, as a function of (seed, global sample index), when `flip` is set.
    Batches arrive on `device`; those of datasets on disk or for an accelerator are made ahead in a thread.
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
        device: torch.device | str = "cpu",
    ) -> None:
        """Open a split. `batch_size` is the global one.

        Raises UsageError for settings that do not fit together or the dataset, LostInvariantError for damage.
        """
        _check(info, batch_size, rank, ranks, flip)
        entries, shape = shards_of(info, split)
        self._device = torch.device(device)
        self._order = TrainingOrder([entry.rows for entry in entries], seed)
        self._flip_key = seed_for(seed, "data flips") if flip else None
        self._batch_size, self._rank, self._share = batch_size, rank, batch_size // ranks
        pinned = self._device.type == "cuda"
        self._streams = info.splits[split] * math.prod(shape) > IN_MEMORY_BYTES
        self._rows: RowReader = (
            ShardRows(open_store(info.location), entries, shape, pinned=pinned)
            if self._streams
            else MemoryRows(info, split, entries)
        )
        self._ahead = Ahead(self._made, UPDATES_AHEAD) if self._streams or pinned else None

    def sample_indices(self, update: int) -> range:
        """The global sample indices of this rank's part of an update, which counts from 0."""
        if update < 0:
            raise ValueError(f"updates count from 0, not {update}")
        start = update * self._batch_size + self._rank * self._share
        return range(start, start + self._share)

    def batch(self, update: int) -> Batch:
        """This rank's part of update 0, 1, …: any update, in any order; consecutive ones are fastest.

        Raises LostInvariantError for a damaged or missing shard.
        """
        return self._made(update) if self._ahead is None else self._ahead.get(update)

    def close(self) -> None:
        """Stop reading ahead and let go of files."""
        if self._ahead is not None:
            self._ahead.close()
        self._rows.close()

    def _made(self, update: int) -> Batch:
        indices = self.sample_indices(update)
        if self._streams:
            self._rows.expect(self._order.shards_after(indices.start))
        images, labels = self._rows.gather(self._order.places(indices.start, len(indices)))
        batch = Batch(
            normalized(images.to(self._device, non_blocking=True)),
            labels.to(self._device, non_blocking=True),
        )
        if self._flip_key is not None:
            # By number, not by mask: an accelerator would have to be asked how many a mask chooses.
            mirrored = torch.from_numpy(np.flatnonzero(flipped(self._flip_key, indices))).to(self._device)
            batch.images[mirrored] = batch.images[mirrored].flip(3)
        return batch


def _check(info: DatasetInfo, batch_size: int, rank: int, ranks: int, flip: bool) -> None:
    if ranks < 1 or not 0 <= rank < ranks:
        raise UsageError(f"rank {rank} of {ranks}: ranks count from 0 to one less than their number")
    # Equal parts: the mean of the ranks' gradients is then the gradient of the whole batch.
    if batch_size < 1 or batch_size % ranks:
        raise UsageError(f"batch size {batch_size} is not a positive multiple of the {ranks} ranks")
    if flip and not info.horizontal_flip_safe:
        raise UsageError(f"images of {info.name} change meaning when mirrored: switch horizontal flips off")


def flipped(key: int, indices: range) -> NDArray[np.bool_]:
    """Which global sample indices are mirrored: bool [len(indices)], each a fair coin of its own."""
    top_bits = random_bits(key, np.arange(indices.start, indices.stop)) >> np.uint64(63)
    return top_bits.astype(np.bool_)


def normalized(
    images: UInt8[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels height width"]:
    """Map 0..255 to [-1, 1] in float32, contiguous: x / 127.5 - 1, exact at both ends."""
    return images.to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1)
