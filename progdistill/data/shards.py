"""Shards, the Arrow files that hold a dataset's images: their layout, and verified access to them."""

import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt, StringConstraints

from progdistill.errors import LostInvariantError
from progdistill.models_base import Frozen
from progdistill.store.base import Store
from progdistill.store.cache import shard_cache
from progdistill.store.digest import FileDigest, HashingWriter, Sha256, worker_threads
from progdistill.store.files import atomic_path

SHARD_BYTES: Final = 8 * 2**20
"""Upper bound of the pixels in a shard. Changing it changes which images share a shard: the fingerprint."""

OPEN_SHARDS: Final = 128
"""Shards kept open; the least recently used is closed first. They hold descriptors, no memory."""

REMOTE_THREADS: Final = 8
"""Concurrent fetches from a remote store, where latency dominates."""


class ShardLayout(Frozen):
    """Offsets of a shard's pixels and labels in the file, in bytes."""

    images_offset: NonNegativeInt
    labels_offset: NonNegativeInt


class ShardEntry(Frozen):
    """A shard in a manifest."""

    file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+\.arrow$")]
    """A plain file name, so that a foreign manifest cannot reach outside its folder."""
    rows: PositiveInt
    digest: FileDigest
    """Of the file."""
    layout: ShardLayout
    content_sha256: Sha256
    """Of the pixels, then the labels (little-endian int64): independent of Arrow's file layout."""


def rows_per_shard(image_bytes: int) -> int:
    """Return how many images of `image_bytes` each fill a shard."""
    return max(1, SHARD_BYTES // image_bytes)


def create_shard(path: Path, rows: int, shape: tuple[int, int, int]) -> ShardLayout:
    """Write a shard of black images (height, width, channels) with label 0, to be filled row by row."""
    import pyarrow as pa

    pixels = pa.array(np.zeros(rows * int(np.prod(shape)), np.uint8))
    storage = pa.FixedSizeListArray.from_arrays(pixels, int(np.prod(shape)))
    tensors = pa.fixed_shape_tensor(pa.uint8(), shape, dim_names=["height", "width", "channel"])
    images = pa.ExtensionArray.from_storage(tensors, storage)
    batch = pa.record_batch([images, pa.array(np.zeros(rows, np.int64))], names=["image", "label"])
    with atomic_path(path) as draft, pa.OSFile(str(draft), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return layout_of(path)


def layout_of(path: Path) -> ShardLayout:
    """Find the pixels and labels in a local shard."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        start = file.read_buffer().address
        batch = pa.ipc.open_file(file).get_batch(0)
        columns = batch.column("image").storage.values, batch.column("label")
        images_offset, labels_offset = (column.buffers()[1].address - start for column in columns)
        return ShardLayout(images_offset=images_offset, labels_offset=labels_offset)


def write_rows(
    path: Path, layout: ShardLayout, start: int, images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> None:
    """Write images, uint8 [count, height, width, channel], and labels, int64 [count], from row `start` on."""
    pixels = np.ascontiguousarray(images)
    with open(path, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), pixels.data, layout.images_offset + start * (pixels.nbytes // len(pixels)))
        os.pwrite(file.fileno(), labels.astype("<i8").data, layout.labels_offset + start * 8)


def read_rows(
    descriptor: int, layout: ShardLayout, start: int, count: int, shape: tuple[int, int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read rows start..start+count-1: images, uint8 [count, height, width, channel], and labels, int64 [count].

    Raises EOFError if the file is too short.
    """
    images = np.empty((count, *shape), np.uint8)
    _read_into(descriptor, images, layout.images_offset + start * int(np.prod(shape)))
    return images, read_labels(descriptor, layout, start, count)


def read_labels(descriptor: int, layout: ShardLayout, start: int, count: int) -> NDArray[np.int64]:
    """Read the labels of rows start..start+count-1, int64 [count]. Raises EOFError as `read_rows`."""
    labels = np.empty(count, "<i8")
    _read_into(descriptor, labels, layout.labels_offset + start * 8)
    return labels.astype(np.int64, copy=False)


def _read_into(descriptor: int, array: NDArray[Any], offset: int) -> None:
    view = array.data.cast("B")
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
    """The open shards of a split, by number, for one calling thread. Other threads open and verify them ahead."""

    def __init__(self, store: Store, entries: Sequence[ShardEntry]) -> None:
        self._store, self._entries = store, entries
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
        return OpenShard(descriptor, read_labels(descriptor, entry.layout, 0, entry.rows))

    def _fetch(self, entry: ShardEntry, writer: HashingWriter) -> None:
        data = self._store.read(entry.file)
        if data is None:
            raise LostInvariantError(f"{self._store.uri}/{entry.file} is missing")
        writer.write(data)

    @staticmethod
    def _close(opening: "Future[OpenShard]") -> None:
        if not opening.cancel() and opening.exception() is None:
            os.close(opening.result().descriptor)
