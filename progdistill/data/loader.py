"""The training loader: random access to the batch of any update, as a pure function of the seed."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from progdistill.data.dataset import DatasetInfo
from progdistill.data.order import Positions, TrainingOrder, random_bits
from progdistill.data.reading import read_split, shards_of
from progdistill.data.shards import ShardEntry, ShardFiles
from progdistill.diffusion.noise import seed_for
from progdistill.errors import LostInvariantError, UsageError
from progdistill.store.base import Store
from progdistill.store.open import open_store

IN_MEMORY_BYTES: Final = 256 * 2**20
"""A split with at most this many bytes of pixels is kept in memory."""

UPDATES_AHEAD: Final = 2
"""Batches prefetched beyond the current one."""

Rows = tuple[UInt8[Tensor, "batch channels height width"], Int64[Tensor, " batch"]]
"""Images as stored, 0..255, with any strides, and their labels."""


class Batch(NamedTuple):
    """Images and their classes: one rank's share of an update."""

    images: Float[Tensor, "batch channels height width"]
    """float32 in [-1, 1], contiguous."""
    labels: Int64[Tensor, " batch"]
    """0 if the dataset has no classes."""


class TrainingLoader:
    """Loads the images of each update of a training job, for one of its ranks.

    Update u with global batch size B takes global sample indices u·B … u·B+B-1, which count through shuffled epochs
    without gaps; rank r of R takes the r-th R-th of them. What is trained on is therefore a function of the seed alone,
    whatever the world size, and training can resume at any update.

    With `flip`, an image is mirrored with probability ½, as a function of (seed, global sample index). Batches of
    datasets on disk, or for an accelerator, are prefetched in a background thread.
    """

    def __init__(
        self,
        info: DatasetInfo,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        flip: bool,
        split: str = "train",
        device: torch.device | str = "cpu",
    ) -> None:
        """Open a split.

        Args:
            info: The dataset.
            batch_size: Global batch size, a multiple of `world_size`.
            seed: Seed of the order and the flips.
            rank: Rank of this process, 0 … world_size-1.
            world_size: Number of ranks.
            flip: Whether to mirror half of the images.
            split: Name of the split.
            device: Where batches are delivered.

        Raises:
            UsageError: The arguments do not fit together or the dataset.
            LostInvariantError: The dataset is damaged or was replaced.
        """
        _check(info, batch_size, rank, world_size, flip)
        entries, shape = shards_of(info, split)
        self._device = torch.device(device)
        self._order = TrainingOrder([entry.rows for entry in entries], seed)
        self._flip_key = seed_for(seed, "data flips") if flip else None
        self._batch_size, self._rank, self._local_size = batch_size, rank, batch_size // world_size
        pinned = self._device.type == "cuda"
        self._rows: MemoryRows | ShardRows
        if in_memory := info.splits[split] * math.prod(shape) <= IN_MEMORY_BYTES:
            self._rows = MemoryRows(info, split, entries)
        else:
            self._rows = ShardRows(open_store(info.location), entries, shape, pinned=pinned)
        self._prefetcher = Prefetcher(self._load, UPDATES_AHEAD) if pinned or not in_memory else None

    def sample_indices(self, update: int) -> range:
        """Return the global sample indices of this rank's share of update 0, 1, …"""
        start = update * self._batch_size + self._rank * self._local_size
        return range(start, start + self._local_size)

    def batch(self, update: int) -> Batch:
        """Return this rank's share of update 0, 1, …, in any order; consecutive updates are fastest.

        Returns:
            `batch_size // world_size` images, float32 [batch, channels, height, width] in [-1, 1], and their
            labels, int64 [batch], on the loader's device.

        Raises:
            LostInvariantError: A shard is damaged or missing.
        """
        return self._load(update) if self._prefetcher is None else self._prefetcher.get(update)

    def close(self) -> None:
        """Stop prefetching and close files."""
        if self._prefetcher is not None:
            self._prefetcher.close()
        if isinstance(self._rows, ShardRows):
            self._rows.files.close()

    def _load(self, update: int) -> Batch:
        indices = self.sample_indices(update)
        if isinstance(self._rows, ShardRows):
            self._rows.files.expect(self._order.shards_after(indices.start))
        images, labels = self._rows.gather(self._order.positions(indices.start, len(indices)))
        images = normalized(images.to(self._device, non_blocking=True))
        batch = Batch(images, labels.to(self._device, non_blocking=True))
        if self._flip_key is not None:
            # Indices, not a mask: a mask would make the accelerator synchronize to count its elements.
            mirrored = torch.from_numpy(np.flatnonzero(flipped(self._flip_key, indices))).to(self._device)
            batch.images[mirrored] = batch.images[mirrored].flip(3)
        return batch


def _check(info: DatasetInfo, batch_size: int, rank: int, world_size: int, flip: bool) -> None:
    if world_size < 1 or not 0 <= rank < world_size:
        raise UsageError(f"rank {rank} is out of range for world size {world_size}")
    # Equal shares: the mean of the ranks' gradients is then the gradient of the whole batch.
    if batch_size < 1 or batch_size % world_size:
        raise UsageError(f"batch size {batch_size} is not a positive multiple of the world size {world_size}")
    if flip and not info.horizontal_flip_safe:
        raise UsageError(f"images of {info.name} change meaning when mirrored: turn horizontal flips off")


def flipped(key: int, indices: range) -> NDArray[np.bool_]:
    """Return which global sample indices are mirrored: bool [len(indices)], independent fair coins."""
    return (random_bits(key, np.arange(indices.start, indices.stop)) >> np.uint64(63)).astype(np.bool_)


def normalized(images: UInt8[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
    """Map 0..255 to [-1, 1] in float32, contiguous: x / 127.5 - 1, exact at both ends."""
    return images.to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1)


class Prefetcher:
    """Loads batches by update in a background thread, up to `depth` updates ahead."""

    def __init__(self, load: Callable[[int], Batch], depth: int) -> None:
        self._load, self._depth = load, depth
        self._pending: dict[int, Future[Batch]] = {}
        self._thread = ThreadPoolExecutor(1, "prefetch")

    def get(self, update: int) -> Batch:
        """Return the batch of `update`, or raise what `load` raised for it."""
        wanted = range(update, update + self._depth + 1)
        for stale in self._pending.keys() - set(wanted):
            self._pending.pop(stale).cancel()
        for pending in wanted:
            if pending not in self._pending:
                self._pending[pending] = self._thread.submit(self._load, pending)
        return self._pending.pop(update).result()

    def close(self) -> None:
        """Stop the thread and drop prefetched batches."""
        self._thread.shutdown(cancel_futures=True)
        self._pending.clear()


class MemoryRows:
    """A small split, held in memory. A batch is one indexed copy."""

    def __init__(self, info: DatasetInfo, split: str, entries: Sequence[ShardEntry]) -> None:
        images, labels = read_split(info, split)
        self._images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        self._labels = torch.from_numpy(labels)
        rows = np.array([entry.rows for entry in entries])
        self._first_of_shard = np.cumsum(rows) - rows

    def gather(self, positions: Positions) -> Rows:
        """Return the images at `positions`, in that order."""
        index = torch.from_numpy(self._first_of_shard[positions.shards] + positions.rows)
        return self._images[index], self._labels[index]


class ShardRows:
    """A split of any size, read by offset. Batches that are `pinned` are copied to an accelerator asynchronously."""

    def __init__(
        self, store: Store, entries: Sequence[ShardEntry], shape: tuple[int, int, int], *, pinned: bool
    ) -> None:
        self.files, self._entries = ShardFiles(store, entries), entries
        self._shape, self._pinned = shape, pinned

    def gather(self, positions: Positions) -> Rows:
        """Return the images at `positions`. LostInvariantError: a shard is damaged, missing or truncated."""
        count, size = len(positions.rows), math.prod(self._shape)
        images = torch.empty((count, *self._shape), dtype=torch.uint8, pin_memory=self._pinned)
        labels = torch.empty(count, dtype=torch.int64, pin_memory=self._pinned)
        pixels = images.view(-1).numpy().data
        by_shard = np.argsort(positions.shards, kind="stable")
        shards, starts = np.unique(positions.shards[by_shard], return_index=True)
        self.files.expect(shards.tolist())
        for shard, batch_rows in zip(shards.tolist(), np.split(by_shard, starts[1:]), strict=True):
            opened, entry = self.files.open(shard), self._entries[shard]
            stored_rows = positions.rows[batch_rows]
            labels.numpy()[batch_rows] = opened.labels[stored_rows]
            offsets, targets = entry.layout.images_offset + stored_rows * size, batch_rows * size
            for offset, target in zip(offsets.tolist(), targets.tolist(), strict=True):
                if os.preadv(opened.descriptor, [pixels[target : target + size]], offset) != size:
                    raise LostInvariantError(f"shard {entry.file} was truncated while being read")
        return images.permute(0, 3, 1, 2), labels
