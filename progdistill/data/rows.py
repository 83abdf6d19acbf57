"""Two ways to get stored images by place: from a copy in memory, or from shards on disk."""

import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from progdistill.artifacts.store import Store
from progdistill.data.dataset import DatasetInfo
from progdistill.data.order import Places
from progdistill.data.reading import read_split
from progdistill.data.shard_files import ShardFiles
from progdistill.data.shard_format import ShardEntry
from progdistill.errors import LostInvariantError

Rows = tuple[UInt8[Tensor, "batch channels height width"], Int64[Tensor, " batch"]]
"""Images as stored, 0..255, of any strides, and their labels."""


class RowReader(Protocol):
    """Stored images by place."""

    def gather(self, places: Places) -> Rows:
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

    def gather(self, places: Places) -> Rows:
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

    def gather(self, places: Places) -> Rows:
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
