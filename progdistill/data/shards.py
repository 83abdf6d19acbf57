"""Shards, the Arrow files that hold a dataset's samples: their layout, and verified access to them."""

import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt, StringConstraints

from progdistill.data.columns import IMAGE, LABEL, LABEL_COLUMN, Column, Rows
from progdistill.errors import LostInvariantError
from progdistill.models_base import Frozen
from progdistill.store.base import Store
from progdistill.store.cache import shard_cache
from progdistill.store.digest import FileDigest, HashingWriter, Sha256, worker_threads
from progdistill.store.files import atomic_path

SHARD_BYTES: Final = 8 * 2**20
"""Upper bound of what a shard holds beside labels. Changing it changes which images share a shard: the fingerprint."""

OPEN_SHARDS: Final = 128
"""Shards kept open; the least recently used is closed first. They hold descriptors, no memory."""

REMOTE_THREADS: Final = 8
"""Concurrent fetches from a remote store, where latency dominates."""


class ShardLayout(Frozen):
    """Where a shard's columns begin in the file, in bytes."""

    images_offset: NonNegativeInt = 0
    """0: the shard has no images."""
    labels_offset: NonNegativeInt
    column_offsets: dict[str, NonNegativeInt] = {}
    """Of the other columns, by name."""

    def has(self, name: str) -> bool:
        """Whether the shard has the column of that name."""
        return name in (IMAGE, LABEL) or name in self.column_offsets

    def offset_of(self, name: str) -> int:
        """Where the column of that name begins."""
        known = {IMAGE: self.images_offset, LABEL: self.labels_offset}
        return known[name] if name in known else self.column_offsets[name]


class ShardEntry(Frozen):
    """A shard in a manifest."""

    file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+\.arrow$")]
    """A plain file name, so that a foreign manifest cannot reach outside its folder."""
    rows: PositiveInt
    digest: FileDigest
    """Of the file."""
    layout: ShardLayout
    content_sha256: Sha256
    """Of the pixels, the labels (little-endian int64), then the other columns: independent of Arrow's file layout."""

    def require_room(self, columns: Sequence[Column]) -> None:
        """Raise ValueError for a column that would not end within the file."""
        for column in columns:
            end = self.layout.offset_of(column.name) + self.rows * column.row_bytes
            if end > self.digest.size_bytes:
                raise ValueError(f"shard {self.file} would end at byte {end:,} of {self.digest.size_bytes:,}")


def sample_bytes(columns: Sequence[Column]) -> int:
    """Bytes of a sample beside its label."""
    return sum(column.row_bytes for column in columns if column.name != LABEL)


def rows_per_shard(columns: Sequence[Column]) -> int:
    """Return how many samples with these columns fill a shard."""
    return max(1, SHARD_BYTES // max(1, sample_bytes(columns)))


def create_shard(path: Path, rows: int, columns: Sequence[Column]) -> ShardLayout:
    """Write a shard of zeros, to be filled row by row."""
    import pyarrow as pa

    arrays = [_zeros(column, rows) for column in columns]
    batch = pa.record_batch(arrays, names=[column.name for column in columns])
    with atomic_path(path) as draft, pa.OSFile(str(draft), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return layout_of(path)


def _zeros(column: Column, rows: int) -> Any:
    """An Arrow array of `rows` zeros: a primitive array for numbers, else one of fixed-shape tensors."""
    import pyarrow as pa

    size = prod(column.shape)
    # Arrow packs booleans into bits, which could not be written row by row.
    dtype = np.dtype(np.uint8) if column.dtype == "bool" else column.numpy_dtype
    values = pa.array(np.zeros(rows * size, dtype))
    if not column.shape:
        return values
    names = ["height", "width", "channel"] if column.name == IMAGE else None
    tensors = pa.fixed_shape_tensor(values.type, column.shape, dim_names=names)
    return pa.ExtensionArray.from_storage(tensors, pa.FixedSizeListArray.from_arrays(values, size))


def layout_of(path: Path) -> ShardLayout:
    """Find the columns in a local shard."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        start = file.read_buffer().address
        batch = pa.ipc.open_file(file).get_batch(0)
        values = {name: batch.column(name) for name in batch.schema.names}
        storage = {name: getattr(array, "storage", array) for name, array in values.items()}
        offsets = {
            name: getattr(array, "values", array).buffers()[1].address - start for name, array in storage.items()
        }
        image, label = offsets.pop(IMAGE, 0), offsets.pop(LABEL)
        return ShardLayout(images_offset=image, labels_offset=label, column_offsets=offsets)


def write_rows(path: Path, layout: ShardLayout, start: int, rows: Rows) -> None:
    """Write samples, in the dtypes of their columns, from row `start` on."""
    with open(path, "r+b", buffering=0) as file:
        for name, values in rows.items():
            _write_from(file.fileno(), values, layout.offset_of(name) + start * (values.nbytes // len(values)))


def read_rows(
    descriptor: int, layout: ShardLayout, start: int, count: int, columns: Sequence[Column]
) -> dict[str, NDArray[Any]]:
    """Read some columns of rows start..start+count-1, each [count, *shape].

    Raises EOFError if the file is too short.
    """
    rows = {}
    for column in columns:
        rows[column.name] = np.empty((count, *column.shape), column.numpy_dtype)
        _read_into(descriptor, rows[column.name], layout.offset_of(column.name) + start * column.row_bytes)
    return rows


def _write_from(descriptor: int, array: NDArray[Any], offset: int) -> None:
    view = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count


def _read_into(descriptor: int, array: NDArray[Any], offset: int) -> None:
    view = array.reshape(-1).view(np.uint8).data
    while view:
        count = os.preadv(descriptor, [view], offset)
        if count == 0:
            raise EOFError(f"file ends {len(view):,} bytes too early")
        view, offset = view[count:], offset + count


class OpenShard(NamedTuple):
    """A verified shard: its open file, and its labels, int64 [rows]."""

    descriptor: int
    labels: NDArray[np.int64]


class ShardFiles:
    """The open shards of a split, by number, for one calling thread. Other threads open and verify them ahead.

    Labels are 0 … max(1, num_classes) − 1.
    """

    def __init__(self, store: Store, entries: Sequence[ShardEntry], num_classes: int) -> None:
        self._store, self._entries, self._num_labels = store, entries, max(1, num_classes)
        self._opening: OrderedDict[int, Future[OpenShard]] = OrderedDict()
        self._verified: set[int] = set()
        self._cache = shard_cache() if store.folder is None else None
        threads = worker_threads() if self._cache is None else REMOTE_THREADS
        self._pool = ThreadPoolExecutor(threads, "shards")

    def expect(self, shards: Iterable[int]) -> None:
        """Start opening shards that will be needed soon."""
        for shard in shards:
            if shard not in self._opening:
                self._opening[shard] = self._pool.submit(self._open_verified, shard)
            self._opening.move_to_end(shard)
            if len(self._opening) > OPEN_SHARDS:
                self._close(self._opening.popitem(last=False)[1])

    def open(self, shard: int) -> OpenShard:
        """Return the verified shard, which stays open until `OPEN_SHARDS` others have been requested.

        Raises LostInvariantError if it is damaged or missing.
        """
        self.expect([shard])
        try:
            return self._opening[shard].result()
        except BaseException:
            del self._opening[shard]
            raise

    def close(self) -> None:
        """Close every shard."""
        self._pool.shutdown(cancel_futures=True)
        for opening in self._opening.values():
            self._close(opening)
        self._opening.clear()

    def _open_verified(self, shard: int) -> OpenShard:
        entry = self._entries[shard]
        where = f"{self._store.uri}/{entry.file}"
        try:
            if self._cache is not None:
                descriptor = self._cache.open(entry.digest, lambda writer: self._fetch(entry, writer), where)
            else:
                if shard not in self._verified:  # Once: reopening a shard is then cheap.
                    self._store.verify(entry.file, entry.digest)
                    self._verified.add(shard)
                descriptor = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
        except (LostInvariantError, FileNotFoundError) as error:
            remedy = "restore it from a copy, or remove the dataset and prepare it again"
            raise LostInvariantError(f"{error}; {remedy}") from error
        labels = read_rows(descriptor, entry.layout, 0, entry.rows, [LABEL_COLUMN])[LABEL]
        if labels.min() < 0 or labels.max() >= self._num_labels:
            os.close(descriptor)
            raise LostInvariantError(
                f"{where} has labels {labels.min()} … {labels.max()}, but the dataset has labels 0 …"
                f" {self._num_labels - 1}; remove the dataset and prepare it again"
            )
        return OpenShard(descriptor, labels)

    def _fetch(self, entry: ShardEntry, writer: HashingWriter) -> None:
        data = self._store.read(entry.file)
        if data is None:
            raise LostInvariantError(f"{self._store.uri}/{entry.file} is missing")
        writer.write(data)

    @staticmethod
    def _close(opening: "Future[OpenShard]") -> None:
        if not opening.cancel() and opening.exception() is None:
            os.close(opening.result().descriptor)
