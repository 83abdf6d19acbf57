"""Reads prepared datasets in stored order, and verifies them."""

from collections.abc import Iterator
from contextlib import closing
from typing import Final

import numpy as np
from numpy.typing import NDArray

from progdistill.data.dataset import DatasetInfo, manifest_of
from progdistill.data.shards import ShardEntry, ShardFiles, read_rows
from progdistill.errors import LostInvariantError, UsageError
from progdistill.progress import Progress
from progdistill.store.open import open_store

SHARDS_AHEAD: Final = 8
"""Shards opened and verified in the background before they are read."""

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images, uint8 [count, height, width, channel], 0..255, and labels, int64 [count]."""


def iterate_images(info: DatasetInfo, split: str, batch_size: int) -> Iterator[Arrays]:
    """Yield a split in stored order, in batches of `batch_size` images; the last one may be smaller.

    Raises:
        UsageError: There is no such split.
        LostInvariantError: A shard is damaged or missing.
    """
    rest: Arrays | None = None
    for images, labels in _iterate_shards(info, split):
        if rest is not None:
            images, labels = np.concatenate([rest[0], images]), np.concatenate([rest[1], labels])
        end = len(images) - len(images) % batch_size
        for start in range(0, end, batch_size):
            yield images[start : start + batch_size], labels[start : start + batch_size]
        rest = images[end:], labels[end:]
    if rest is not None and len(rest[0]):
        yield rest


def read_split(info: DatasetInfo, split: str) -> Arrays:
    """Read a whole split into memory. Raises as `iterate_images` does."""
    images, labels = zip(*_iterate_shards(info, split), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _iterate_shards(info: DatasetInfo, split: str) -> Iterator[Arrays]:
    entries, shape = shards_of(info, split)
    with closing(ShardFiles(open_store(info.location), entries)) as files:
        for shard, entry in enumerate(entries):
            files.expect(range(shard, min(shard + SHARDS_AHEAD, len(entries))))
            yield read_rows(files.open(shard).descriptor, entry.layout, 0, entry.rows, shape)


def shards_of(info: DatasetInfo, split: str) -> tuple[tuple[ShardEntry, ...], tuple[int, int, int]]:
    """Return the shards of a split in stored order, and the image shape (height, width, channels).

    Raises UsageError if there is no such split, and what `manifest_of` raises.
    """
    manifest = manifest_of(info)
    if split not in manifest.splits:
        raise UsageError(f"dataset {info.name} has no split {split!r}; it has {', '.join(manifest.splits)}")
    return manifest.splits[split], manifest.image_shape


def verify_dataset(info: DatasetInfo) -> None:
    """Read every shard. Raises LostInvariantError with all damaged or missing ones, and their digests."""
    store, manifest = open_store(info.location), manifest_of(info)
    entries = [entry for shards in manifest.splits.values() for entry in shards]
    errors = []
    with Progress(f"verifying {info.name}", total=len(entries), unit="shards") as progress:
        for entry in entries:
            try:
                store.verify(entry.file, entry.digest)
            except LostInvariantError as error:
                errors.append(str(error))
            progress.advance()
    if errors:
        remedy = f"restore them from a copy, or remove {info.location} and prepare it again"
        raise LostInvariantError("\n".join([*errors, remedy]))
