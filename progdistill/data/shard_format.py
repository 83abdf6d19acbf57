"""One shard: an Arrow IPC file of a single record batch, whose pixels and labels lie at known offsets.

Any Arrow program reads a shard (columns `image`: uint8 tensors [height, width, channel], `label`: int64). This
package reads its rows by offset instead: no Arrow to import, no mapping that counts as resident memory or dies
of SIGBUS when a file shrinks.
"""

import hashlib
import os
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from progdistill.artifacts.digest import FileDigest, Sha256

SHARD_BYTES: Final = 8 * 2**20
"""Pixels in a full shard, at most. It decides which images share a shard: changing it changes fingerprints."""

LABEL_BYTES: Final = 8


class ShardEntry(BaseModel):
    """What a manifest says of one shard. Offsets and sizes in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
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


class ShardLayout(NamedTuple):
    """Where a shard's pixels and labels begin, in bytes from the start of the file."""

    images_offset: int
    labels_offset: int


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
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return _layout_of(path)


def _layout_of(path: Path) -> ShardLayout:
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        start = file.read_buffer(0).address
        batch = pa.ipc.open_file(file).get_batch(0)
        images, labels = batch.column("image").storage.values, batch.column("label")
        return ShardLayout(images.buffers()[1].address - start, labels.buffers()[1].address - start)


def write_row(descriptor: int, layout: ShardLayout, row: int, image: NDArray[np.uint8], label: int) -> None:
    """Put one image (height, width, channels) and its label into a shard open for writing."""
    os.pwrite(descriptor, np.ascontiguousarray(image), layout.images_offset + row * image.size)
    os.pwrite(
        descriptor,
        label.to_bytes(LABEL_BYTES, "little", signed=True),
        layout.labels_offset + row * LABEL_BYTES,
    )


def read_images(
    descriptor: int, entry: ShardEntry, start: int, count: int, shape: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Images start..start+count-1 of a shard: uint8 [count, height, width, channels]."""
    images = np.empty((count, *shape), np.uint8)
    image_bytes = int(np.prod(shape))
    read_into(descriptor, images, entry.images_offset + start * image_bytes)
    return images


def read_labels(descriptor: int, entry: ShardEntry) -> NDArray[np.int64]:
    """All labels of a shard: int64 [rows]."""
    labels = np.empty(entry.rows, "<i8")
    read_into(descriptor, labels, entry.labels_offset)
    return labels.astype(np.int64, copy=False)


def read_into(descriptor: int, array: NDArray[np.generic], offset: int) -> None:
    """Fill a contiguous array from a file; EOFError when the file ends before."""
    view = memoryview(array).cast("B") if array.nbytes else memoryview(b"")
    while view:
        count = os.preadv(descriptor, [view], offset)
        if count == 0:
            raise EOFError
        view, offset = view[count:], offset + count


def content_digest(descriptor: int, layout: ShardLayout, rows: int, image_bytes: int) -> str:
    """SHA-256 over a shard's pixels, then its labels."""
    content = hashlib.sha256()
    for offset, size in (
        (layout.images_offset, rows * image_bytes),
        (layout.labels_offset, rows * LABEL_BYTES),
    ):
        part = np.empty(size, np.uint8)
        read_into(descriptor, part, offset)
        content.update(part)
    return content.hexdigest()
