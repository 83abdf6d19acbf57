"""Reading a prepared dataset, and checking all of it."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from progdistill.data.dataset import DatasetInfo, manifest_of
from progdistill.data.shards import ShardEntry, ShardFiles, read_rows
from progdistill.errors import LostInvariantError, UsageError
from progdistill.progress import Progress
from progdistill.store.open import open_store


def iterate_images(
    info: DatasetInfo, split: str, batch_size: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Yield a split in stored order: uint8 [batch, height, width, channel] 0..255, int64 [batch].

    Every batch but the last has `batch_size` images. Raises UsageError for an unknown split,
    LostInvariantError for a damaged shard.
    """
    entries, shape = shards_of(info, split)
    kept_images, kept_labels = np.empty((0, *shape), np.uint8), np.empty(0, np.int64)
    with ShardFiles(open_store(info.location), entries) as files:
        for shard, entry in enumerate(entries):
            files.expect(range(shard, min(shard + 2, len(entries))))
            images, labels = read_rows(files.open(shard).descriptor, entry.layout, 0, entry.rows, shape)
            images, labels = np.concatenate([kept_images, images]), np.concatenate([kept_labels, labels])
            whole = len(images) - len(images) % batch_size
            for start in range(0, whole, batch_size):
                yield images[start : start + batch_size], labels[start : start + batch_size]
            kept_images, kept_labels = images[whole:], labels[whole:]
    if len(kept_images):
        yield kept_images, kept_labels


def read_split(info: DatasetInfo, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A whole split in memory, for small ones: uint8 [count, height, width, channel], int64 [count]."""
    entries, shape = shards_of(info, split)
    with ShardFiles(open_store(info.location), entries) as files:
        files.expect(range(min(len(entries), 8)))
        parts = [
            read_rows(files.open(shard).descriptor, entry.layout, 0, entry.rows, shape)
            for shard, entry in enumerate(entries)
        ]
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def shards_of(info: DatasetInfo, split: str) -> tuple[tuple[ShardEntry, ...], tuple[int, int, int]]:
    """A split's shards in stored order, and its images' shape (height, width, channels)."""
    manifest = manifest_of(info)
    if split not in manifest.splits:
        raise UsageError(f"dataset {info.name} has no split {split!r}; it has {', '.join(manifest.splits)}")
    return manifest.splits[split], manifest.image_shape


def verify_dataset(info: DatasetInfo) -> None:
    """Raise LostInvariantError unless all is intact: it names every damaged shard, with digests."""
    store, manifest = open_store(info.location), manifest_of(info)
    entries = [entry for shards in manifest.splits.values() for entry in shards]
    damages = []
    with Progress(f"verifying {info.name}", total=len(entries), unit="shards") as progress:
        for entry in entries:
            try:
                store.verify(entry.file, entry.digest)
            except LostInvariantError as error:
                damages.append(str(error))
            progress.advance()
    if damages:
        raise LostInvariantError(
            "\n".join([*damages, f"restore them from a copy, or remove {info.location} and prepare it again"])
        )
