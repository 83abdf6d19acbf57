"""Reads prepared datasets in stored order, and verifies them."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from progdistill.data.columns import IMAGE, LABEL, Column, Rows
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
        UsageError: There is no such split, or the dataset has no images.
        LostInvariantError: A shard is damaged or missing.
    """
    rest: Arrays | None = None
    for rows in _iterate_shards(info, split, images_and_labels(info)):
        images, labels = rows[IMAGE], rows[LABEL]
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
    rows = read_columns(info, split, images_and_labels(info))
    return rows[IMAGE], rows[LABEL]


def images_and_labels(info: DatasetInfo) -> list[Column]:
    """The columns that image datasets have. Raises UsageError for a dataset without images."""
    if not info.image_size:
        raise UsageError(f"dataset {info.name} has no images, which this needs: name one that has with --dataset")
    return [column for column in info.stored_columns if column.name in (IMAGE, LABEL)]


def read_columns(info: DatasetInfo, split: str, columns: Sequence[Column]) -> dict[str, NDArray[Any]]:
    """Read some columns of a whole split, in stored order, into memory.

    Args:
        info: The dataset.
        split: Name of the split.
        columns: Of `info.stored_columns`.

    Returns:
        Each column, [count, *shape], in its dtype.

    Raises:
        UsageError: There is no such split.
        LostInvariantError: A shard is damaged or missing.
    """
    parts = list(_iterate_shards(info, split, columns))
    return {column.name: np.concatenate([part[column.name] for part in parts]) for column in columns}


class SplitReader:
    """Reads any rows of a split, for one calling thread."""

    def __init__(self, info: DatasetInfo, split: str, columns: Sequence[Column]) -> None:
        """Open a split; columns are of `info.stored_columns`. Raises as `read_columns` does."""
        self._entries, self._columns = shards_of(info, split), columns
        self._files = ShardFiles(open_store(info.location), self._entries, info.num_classes)
        self._ends = np.cumsum([entry.rows for entry in self._entries])

    def read(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Read rows start … stop − 1 in stored order, each column [count, *shape]."""
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right").tolist()
        self._files.expect(range(first, min(last + SHARDS_AHEAD, len(self._entries))))
        parts = []
        for shard in range(first, last + 1):
            entry = self._entries[shard]
            base = int(self._ends[shard]) - entry.rows
            row, end = max(start - base, 0), min(stop - base, entry.rows)
            descriptor = self._files.open(shard).descriptor
            parts.append(read_rows(descriptor, entry.layout, row, end - row, self._columns))
        return {column.name: np.concatenate([part[column.name] for part in parts]) for column in self._columns}

    def close(self) -> None:
        """Close the files."""
        self._files.close()


def read_unconditional(info: DatasetInfo) -> dict[str, NDArray[Any]] | None:
    """Read the columns of the empty prompt, each [1, *shape]; None where the dataset has none. Raises as above."""
    manifest = manifest_of(info)
    if (entry := manifest.unconditional) is None:
        return None
    columns = [column for column in manifest.columns if column.name in entry.layout.column_offsets]
    with closing(ShardFiles(open_store(info.location), [entry], info.num_classes)) as files:
        return read_rows(files.open(0).descriptor, entry.layout, 0, 1, columns)


def _iterate_shards(info: DatasetInfo, split: str, columns: Sequence[Column]) -> Iterator[Rows]:
    entries = shards_of(info, split)
    with closing(ShardFiles(open_store(info.location), entries, info.num_classes)) as files:
        for shard, entry in enumerate(entries):
            files.expect(range(shard, min(shard + SHARDS_AHEAD, len(entries))))
            yield read_rows(files.open(shard).descriptor, entry.layout, 0, entry.rows, columns)


def shards_of(info: DatasetInfo, split: str) -> tuple[ShardEntry, ...]:
    """Return the shards of a split in stored order.

    Raises UsageError if there is no such split, and what `manifest_of` raises.
    """
    manifest = manifest_of(info)
    if split not in manifest.splits:
        raise UsageError(f"dataset {info.name} has no split {split!r}; it has {', '.join(manifest.splits)}")
    return manifest.splits[split]


def verify_dataset(info: DatasetInfo) -> None:
    """Read every shard. Raises LostInvariantError with all damaged or missing ones, and their digests."""
    store, entries = open_store(info.location), manifest_of(info).entries
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
