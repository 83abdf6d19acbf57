"""Feeds training: any update's images at once, in an order and with flips that the seed alone decides."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

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

Item = TypeVar("Item")


class Prefetcher(Generic[Item]):
    """Items by number from `make`, which runs in a thread of its own, up to `depth` numbers ahead."""

    def __init__(self, make: Callable[[int], Item], depth: int) -> None:
        self._make, self._depth = make, depth
        self._coming: dict[int, Future[Item]] = {}
        self._thread = ThreadPoolExecutor(1, "ahead")

    def get(self, number: int) -> Item:
        """Item `number`; what `make` raised for it is raised here."""
        wanted = range(number, number + self._depth + 1)
        for stale in self._coming.keys() - set(wanted):
            self._coming.pop(stale).cancel()
        for coming in wanted:
            if coming not in self._coming:
                self._coming[coming] = self._thread.submit(self._make, coming)
        return self._coming.pop(number).result()

    def close(self) -> None:
        """Stop the thread; what was made ahead is dropped."""
        self._thread.shutdown(cancel_futures=True)
        self._coming.clear()


Rows = tuple[UInt8[Tensor, "batch channels height width"], Int64[Tensor, " batch"]]
"""Images as stored, 0..255, of any strides, and their labels."""


class RowReader(Protocol):
    """Stored images by place."""

    def gather(self, places: Positions) -> Rows:
        """Return the images at `places`, in that order."""

    def expect(self, shards: Sequence[int]) -> None:
        """Prepare for images of these shards."""

    def close(self) -> None:
        """Let go of files and memory."""


class MemoryRows:
    """A small split, read whole: a batch is one indexed copy."""

    def __init__(self, info: DatasetInfo, split: str, entries: Sequence[ShardEntry]) -> None:
        images, labels = read_split(info, split)
        self._images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        self._labels = torch.from_numpy(labels)
        rows = np.array([entry.rows for entry in entries])
        self._first_of_shard = np.cumsum(rows) - rows

    def gather(self, places: Positions) -> Rows:
        """See RowReader."""
        index = torch.from_numpy(self._first_of_shard[places.shards] + places.rows)
        return self._images[index], self._labels[index]

    def expect(self, shards: Sequence[int]) -> None:
        """See RowReader: everything is here."""

    def close(self) -> None:
        """See RowReader."""


class ShardRows:
    """A split of any size: each image is read by its offset, so that only batches are ever in memory.

    `pinned` allocates batches in page-locked memory, from which a copy to an accelerator needs no waiting.
    """

    def __init__(
        self, store: Store, entries: Sequence[ShardEntry], shape: tuple[int, int, int], *, pinned: bool
    ) -> None:
        self._files, self._entries = ShardFiles(store, entries), entries
        self._shape, self._pinned = shape, pinned

    def gather(self, places: Positions) -> Rows:
        """See RowReader. Raises LostInvariantError for a shard that is damaged, missing or cut short."""
        images = torch.empty((len(places.rows), *self._shape), dtype=torch.uint8, pin_memory=self._pinned)
        labels = torch.empty(len(places.rows), dtype=torch.int64, pin_memory=self._pinned)
        by_shard = np.argsort(places.shards, kind="stable")
        shards, starts = np.unique(places.shards[by_shard], return_index=True)
        self._files.expect(shards.tolist())
        for shard, batch_rows in zip(shards.tolist(), np.split(by_shard, starts[1:]), strict=True):
            opened = self._files.open(shard)
            stored_rows = places.rows[batch_rows]
            labels.numpy()[batch_rows] = opened.labels[stored_rows]
            self._read(shard, opened.descriptor, stored_rows, images.numpy(), batch_rows)
        return images.permute(0, 3, 1, 2), labels

    def expect(self, shards: Sequence[int]) -> None:
        """See RowReader: open and verify them in the background."""
        self._files.expect(shards)

    def close(self) -> None:
        """See RowReader."""
        self._files.close()

    def _read(
        self,
        shard: int,
        descriptor: int,
        stored_rows: NDArray[np.int64],
        images: NDArray[np.uint8],
        batch_rows: NDArray[np.int64],
    ) -> None:
        size = images[0].nbytes
        pixels = images.reshape(-1).data
        offsets = self._entries[shard].images_offset + stored_rows * size
        for offset, target in zip(offsets.tolist(), (batch_rows * size).tolist(), strict=True):
            if os.preadv(descriptor, [pixels[target : target + size]], offset) != size:
                raise LostInvariantError(
                    f"shard {self._entries[shard].file} became shorter while it was read"
                )


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
        world_size: int = 1,
        flip: bool,
        split: str = "train",
        device: torch.device | str = "cpu",
    ) -> None:
        """Open a split. `batch_size` is the global one.

        Raises UsageError for settings that do not fit together or the dataset, LostInvariantError for damage.
        """
        _check(info, batch_size, rank, world_size, flip)
        entries, shape = shards_of(info, split)
        self._device = torch.device(device)
        self._order = TrainingOrder([entry.rows for entry in entries], seed)
        self._flip_key = seed_for(seed, "data flips") if flip else None
        self._batch_size, self._rank, self._share = batch_size, rank, batch_size // world_size
        pinned = self._device.type == "cuda"
        self._streams = info.splits[split] * math.prod(shape) > IN_MEMORY_BYTES
        self._rows: RowReader = (
            ShardRows(open_store(info.location), entries, shape, pinned=pinned)
            if self._streams
            else MemoryRows(info, split, entries)
        )
        self._ahead = Prefetcher(self._made, UPDATES_AHEAD) if self._streams or pinned else None

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


def _check(info: DatasetInfo, batch_size: int, rank: int, world_size: int, flip: bool) -> None:
    if world_size < 1 or not 0 <= rank < world_size:
        raise UsageError(f"rank {rank} of {world_size}: ranks count from 0 to one less than their number")
    # Equal parts: the mean of the ranks' gradients is then the gradient of the whole batch.
    if batch_size < 1 or batch_size % world_size:
        raise UsageError(f"batch size {batch_size} is not a positive multiple of the {world_size} ranks")
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
