"""One shard: an Arrow IPC file of a single record batch, whose pixels and labels lie at known offsets.

Any Arrow program reads a shard (columns `image`: uint8 tensors [height, width, channel], `label`: int64).
This package reads its rows by offset instead: no Arrow to import, no mapping that counts as resident memory
or dies of SIGBUS when a file shrinks.
"""

import hashlib
import os
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, StringConstraints

from progdistill.artifacts.digest import FileDigest, Sha256

SHARD_BYTES: Final = 8 * 2**20
"""Pixels in a full shard, at most. It decides which images share a shard, and so the fingerprint."""

LABEL_BYTES: Final = 8


class ShardLayout(NamedTuple):
    """Where a shard's pixels and labels begin, in bytes from the start of the file."""

    images_offset: int
    labels_offset: int


class ShardEntry(BaseModel):
    """What a manifest says of one shard. Offsets and sizes in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+\.arrow$")]
    """A plain name: a manifest from elsewhere cannot reach outside its folder."""
    rows: PositiveInt
    size_bytes: PositiveInt
    images_offset: NonNegativeInt
    labels_offset: NonNegativeInt
    sha256: Sha256
    """Of the file, as `sha256sum` prints it."""
    content_sha256: Sha256
    """Of the pixels, then the labels (little-endian int64): free of how Arrow lays out its file."""

    @property
    def digest(self) -> FileDigest:
        """The file's digest and size."""
        return FileDigest(self.sha256, self.size_bytes)

    @property
    def layout(self) -> ShardLayout:
        """Where the rows lie."""
        return ShardLayout(self.images_offset, self.labels_offset)


def rows_per_shard(image_bytes: int) -> int:
    """Images of `image_bytes` each in a full shard."""
    return max(1, SHARD_BYTES // image_bytes)


def create_shard(path: Path, rows: int, shape: tuple[int, int, int]) -> ShardLayout:
    """Write a shard of black images (height, width, channels) with label 0, to be filled in row by row."""
    import pyarrow as pa

    pixels = pa.array(np.zeros(rows * int(np.prod(shape)), np.uint8))
    storage = pa.FixedSizeListArray.from_arrays(pixels, int(np.prod(shape)))
    tensors = pa.fixed_shape_tensor(pa.uint8(), shape, dim_names=["height", "width", "channel"])
    images = pa.ExtensionArray.from_storage(tensors, storage)
    batch = pa.record_batch([images, pa.array(np.zeros(rows, np.int64))], names=["image", "label"])
    staged = path.with_suffix(".part")
    with pa.OSFile(str(staged), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    os.replace(staged, path)
    return layout_of(path)


def layout_of(path: Path) -> ShardLayout:
    """Find the pixels and labels in a shard that was just made."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        start = file.read_buffer().address
        batch = pa.ipc.open_file(file).get_batch(0)
        images, labels = batch.column("image").storage.values, batch.column("label")
        return ShardLayout(images.buffers()[1].address - start, labels.buffers()[1].address - start)


def write_rows(
    descriptor: int, layout: ShardLayout, start: int, images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> None:
    """Put images [count, height, width, channel] and their labels into rows start, start+1, …"""
    pixels, codes = np.ascontiguousarray(images), labels.astype("<i8")
    os.pwrite(descriptor, pixels.data, layout.images_offset + start * (pixels.nbytes // len(pixels)))
    os.pwrite(descriptor, codes.data, layout.labels_offset + start * LABEL_BYTES)


def read_rows(
    descriptor: int, layout: ShardLayout, start: int, count: int, shape: tuple[int, int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Rows start..start+count-1: uint8 [count, height, width, channel], int64 [count].

    Raises EOFError when the file is shorter than that.
    """
    images = np.empty((count, *shape), np.uint8)
    _read_into(descriptor, images, layout.images_offset + start * int(np.prod(shape)))
    return images, read_labels(descriptor, layout, start, count)


def read_labels(descriptor: int, layout: ShardLayout, start: int, count: int) -> NDArray[np.int64]:
    """Labels of rows start..start+count-1: int64 [count]; EOFError when the file is shorter than that."""
    labels = np.empty(count, "<i8")
    _read_into(descriptor, labels, layout.labels_offset + start * LABEL_BYTES)
    return labels.astype(np.int64, copy=False)


def _read_into(descriptor: int, array: NDArray[Any], offset: int) -> None:
    """Fill a contiguous, non-empty array from a file; EOFError when the file ends before."""
    view = array.data.cast("B")
    while view:
        count = os.preadv(descriptor, [view], offset)
        if count == 0:
            raise EOFError(f"file ends {len(view):,} bytes too early")
        view, offset = view[count:], offset + count


def content_digest(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> str:
    """SHA-256 over pixels, then labels."""
    content = hashlib.sha256(np.ascontiguousarray(images).data)
    content.update(labels.astype("<i8").data)
    return content.hexdigest()
