"""The training loader: random access to the batch of any update, as a pure function of the seed."""

import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from progdistill.data.columns import IMAGE, LABEL, LATENT_MEAN, LATENT_STD, Column, is_condition
from progdistill.data.dataset import DatasetInfo
from progdistill.data.order import Positions, TrainingOrder, random_bits
from progdistill.data.reading import read_columns, shards_of
from progdistill.data.shards import ShardEntry, ShardFiles, sample_bytes
from progdistill.diffusion.noise import sample_noise, seed_for
from progdistill.errors import LostInvariantError, UsageError
from progdistill.store.open import open_store

IN_MEMORY_BYTES: Final = 256 * 2**20
"""A split of which at most this many bytes are used, labels apart, is kept in memory."""

UPDATES_AHEAD: Final = 2
"""Batches prefetched beyond the current one."""

Loaded = TypeVar("Loaded")

Stored = dict[str, Tensor]
"""Columns as stored, each [batch, *shape]."""


class Batch(NamedTuple):
    """One rank's share of an update."""

    x: Float[Tensor, "batch channels height width"] | None
    """Images, float32 in [-1, 1], contiguous; or latents, float32. None: the dataset has neither."""
    conditioning: dict[str, Tensor]
    """The columns that a network may be conditioned on: `label`, int64 [batch], 0 if the dataset has no classes;
    text as its encoder gave it, [batch, …]."""


class TrainingLoader:
    """Loads the images of each update of a training job, for one of its ranks.

    Update u with global batch size B takes global sample indices u·B … u·B+B-1, which count through shuffled epochs
    without gaps; rank r of R takes the r-th R-th of them. What is trained on is therefore a function of the seed alone,
    whatever the world size, and training can resume at any update.

    With `flip`, an image is mirrored with probability ½. A latent is drawn anew each time from the mean and standard
    deviation that its encoder gave. Both are functions of (seed, global sample index). Batches of datasets on disk, or
    for an accelerator, are prefetched in a background thread.
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
        conditions: Collection[str] | None = None,
        samples: bool = True,
    ) -> None:
        """Open a split.

        Args:
            info: The dataset.
            batch_size: Global batch size, a multiple of `world_size`.
            seed: Seed of the order, the flips and the draws of latents.
            rank: Rank of this process, 0 … world_size-1.
            world_size: Number of ranks.
            flip: Whether to mirror half of the images.
            split: Name of the split.
            device: Where batches are delivered.
            conditions: Names of the columns to condition on; others are not read. None: all there are.
            samples: Whether to load images or latents; False: x is None.

        Raises:
            UsageError: The arguments do not fit together or the dataset.
            LostInvariantError: The dataset is damaged or was replaced.
        """
        _check(info, batch_size, rank, world_size, flip)
        entries, columns = shards_of(info, split), _columns_used(info, conditions, samples)
        self._device = torch.device(device)
        self._order = TrainingOrder([entry.rows for entry in entries], seed)
        self._flip_key = seed_for(seed, "data flips") if flip else None
        self._seed = seed
        shapes = {column.name: column.shape for column in columns}
        self._batch_size, self._rank, self.local_size = batch_size, rank, batch_size // world_size
        self._noise: Prefetcher[Tensor] | None = None
        if LATENT_STD in shapes:
            # On the CPU, so that every device meets the same latents; in another thread, while rows are read.
            draw = partial(self._draw_noise, shape=shapes[LATENT_STD])
            self._noise = Prefetcher(draw, ahead=1)
        pinned = self._device.type == "cuda"
        self._rows: MemoryRows | ShardRows
        if in_memory := info.splits[split] * sample_bytes(columns) <= IN_MEMORY_BYTES:
            self._rows = MemoryRows(info, split, entries, columns)
        else:
            files = ShardFiles(open_store(info.location), entries, info.num_classes)
            self._rows = ShardRows(files, entries, columns, pinned=pinned)
        self._prefetcher = Prefetcher(self._load, UPDATES_AHEAD) if pinned or not in_memory else None

    def sample_indices(self, update: int) -> range:
        """Return the global sample indices of this rank's share of update 0, 1, …"""
        start = update * self._batch_size + self._rank * self.local_size
        return range(start, start + self.local_size)

    def batch(self, update: int) -> Batch:
        """Return this rank's share of update 0, 1, …, in any order; consecutive updates are fastest.

        Returns:
            `batch_size // world_size` samples on the loader's device.

        Raises:
            LostInvariantError: A shard is damaged or missing.
        """
        return self._load(update) if self._prefetcher is None else self._prefetcher.get(update)

    def close(self) -> None:
        """Stop prefetching and close files."""
        if self._prefetcher is not None:
            self._prefetcher.close()
        if self._noise is not None:
            self._noise.close()
        if isinstance(self._rows, ShardRows):
            self._rows.files.close()

    def _load(self, update: int) -> Batch:
        indices = self.sample_indices(update)
        if isinstance(self._rows, ShardRows):
            self._rows.files.expect(self._order.shards_after(indices.start))
        stored = self._rows.gather(self._order.positions(indices.start, len(indices)))
        if self._noise is not None:
            mean, std = stored[LATENT_MEAN].float(), stored.pop(LATENT_STD).float()
            for row, *factors in zip(mean, std, self._noise.get(update), strict=True):
                row.addcmul_(*factors)  # row by row: torch's other threads belong to the training
            stored[LATENT_MEAN] = mean
        moved = {name: column.to(self._device, non_blocking=True) for name, column in stored.items()}
        return Batch(self._x(moved, indices), moved)

    def _draw_noise(self, update: int, shape: tuple[int, ...]) -> Tensor:
        return sample_noise(self._seed, "data latents", self.sample_indices(update), shape)

    def _x(self, columns: Stored, indices: range) -> Tensor | None:
        """Take images or latents out of a batch's columns."""
        if LATENT_MEAN in columns:
            return columns.pop(LATENT_MEAN).float()
        if IMAGE not in columns:
            return None
        images = normalized(columns.pop(IMAGE).permute(0, 3, 1, 2))
        if self._flip_key is not None:
            # Indices, not a mask: a mask would make the accelerator synchronize to count its elements.
            mirrored = torch.from_numpy(np.flatnonzero(flipped(self._flip_key, indices))).to(self._device)
            images[mirrored] = images[mirrored].flip(3)
        return images


def _columns_used(info: DatasetInfo, conditions: Collection[str] | None, samples: bool) -> list[Column]:
    """The columns that x is made from, the label, and those to condition on."""
    names = {column.name for column in info.stored_columns}
    made_from = {LATENT_MEAN, LATENT_STD} if LATENT_MEAN in names else {IMAGE}
    if missing := sorted(set(conditions or ()) - names):
        raise UsageError(f"dataset {info.name} has no column {', '.join(missing)}: it has {', '.join(sorted(names))}")
    return [
        column
        for column in info.stored_columns
        if (samples and column.name in made_from)
        or column.name == LABEL
        or (is_condition(column) and (conditions is None or column.name in conditions))
    ]


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


class Prefetcher(Generic[Loaded]):
    """Loads what belongs to an update in a background thread, for up to `ahead` updates beyond the one asked for."""

    def __init__(self, load: Callable[[int], Loaded], ahead: int) -> None:
        self._load, self._ahead = load, ahead
        self._pending: dict[int, Future[Loaded]] = {}
        self._thread = ThreadPoolExecutor(1, "prefetch")

    def get(self, update: int) -> Loaded:
        """Return what belongs to `update`, or raise what `load` raised for it."""
        wanted = range(update, update + self._ahead + 1)
        for stale in self._pending.keys() - set(wanted):
            self._pending.pop(stale).cancel()
        for pending in wanted:
            if pending not in self._pending:
                self._pending[pending] = self._thread.submit(self._load, pending)
        return self._pending.pop(update).result()

    def close(self) -> None:
        """Stop the thread and drop what was prefetched."""
        self._thread.shutdown(cancel_futures=True)
        self._pending.clear()


class MemoryRows:
    """A small split, held in memory. A batch is one indexed copy of each column."""

    def __init__(self, info: DatasetInfo, split: str, entries: Sequence[ShardEntry], columns: Sequence[Column]) -> None:
        self._columns = {name: torch.from_numpy(rows) for name, rows in read_columns(info, split, columns).items()}
        rows = np.array([entry.rows for entry in entries])
        self._first_of_shard = np.cumsum(rows) - rows

    def gather(self, positions: Positions) -> Stored:
        """Return the samples at `positions`, in that order."""
        index = torch.from_numpy(self._first_of_shard[positions.shards] + positions.rows)
        return {name: column[index] for name, column in self._columns.items()}


class ShardRows:
    """A split of any size, read by offset. Batches that are `pinned` are copied to an accelerator asynchronously."""

    def __init__(
        self, files: ShardFiles, entries: Sequence[ShardEntry], columns: Sequence[Column], *, pinned: bool
    ) -> None:
        self.files, self._entries = files, entries
        self._columns, self._pinned = columns, pinned

    def gather(self, positions: Positions) -> Stored:
        """Return the samples at `positions`. LostInvariantError: a shard is damaged, missing or truncated."""
        count = len(positions.rows)
        batch = {
            column.name: torch.empty(
                (count, *column.shape), dtype=getattr(torch, column.dtype), pin_memory=self._pinned
            )
            for column in self._columns
        }
        bytes_of = {name: column.view(-1).view(torch.uint8).numpy().data for name, column in batch.items()}
        by_shard = np.argsort(positions.shards, kind="stable")
        shards, starts = np.unique(positions.shards[by_shard], return_index=True)
        self.files.expect(shards.tolist())
        for shard, batch_rows in zip(shards.tolist(), np.split(by_shard, starts[1:]), strict=True):
            opened, entry = self.files.open(shard), self._entries[shard]
            stored_rows = positions.rows[batch_rows]
            batch[LABEL].numpy()[batch_rows] = opened.labels[stored_rows]
            for column in self._columns:
                if column.name != LABEL:
                    _copy_rows(opened.descriptor, entry, column, stored_rows, bytes_of[column.name], batch_rows)
        return batch


def _copy_rows(
    descriptor: int,
    entry: ShardEntry,
    column: Column,
    stored_rows: NDArray[np.int64],
    into: Any,
    batch_rows: NDArray[np.int64],
) -> None:
    """Read rows of a column from a shard into the rows of a batch, given as one buffer of bytes."""
    size = column.row_bytes
    offsets, targets = entry.layout.offset_of(column.name) + stored_rows * size, batch_rows * size
    for offset, target in zip(offsets.tolist(), targets.tolist(), strict=True):
        if os.preadv(descriptor, [into[target : target + size]], offset) != size:
            raise LostInvariantError(f"shard {entry.file} was truncated while being read")
