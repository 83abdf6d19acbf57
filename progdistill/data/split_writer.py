"""Writes one split of a source as shards: decodes on all cores, records how far it got, skips bad images."""

import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, reduce
from pathlib import Path
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from progdistill.data.manifest import SplitStatistics
from progdistill.data.order import random_order
from progdistill.data.shards import (
    ShardEntry,
    ShardLayout,
    content_digest,
    create_shard,
    layout_of,
    read_rows,
    rows_per_shard,
    write_rows,
)
from progdistill.data.source import Pixels, Source, SourceFacts, SourceImage, UnreadableImageError
from progdistill.data.staging import SplitState, StagingFolder
from progdistill.errors import UsageError
from progdistill.progress import Progress
from progdistill.store.digest import digest_of_file, worker_threads
from progdistill.store.files import atomic_path

STORED_ORDER_KEY: Final = 0x70726F6764697374
"""Key of the stored order. Changing it would change the fingerprint of every dataset."""

CHECKPOINT_IMAGES: Final = 10_000
"""Images between two records of how far a preparation got."""

IN_FLIGHT_PER_THREAD: Final = 4
"""Encoded images held per decoding thread: this bounds memory."""

logger = logging.getLogger(__name__)


def write_split(source: Source, split: str, staging: StagingFolder, max_unreadable: int) -> SplitState:
    """Write the images of a split that are not in `staging` yet. Raises UsageError as `prepare` does."""
    facts, state = source.facts, staging.splits.get(split, SplitState())
    count, done, unreadable = facts.splits[split], state.done, dict(state.unreadable)
    writer = SplitWriter(staging.path, split, count, facts.image_shape)
    with Progress(f"preparing {split}", total=count, unit="images", start=done) as progress:
        try:
            for image, pixels in _decoded(source.read(split, done)):
                if isinstance(pixels, UnreadableImageError):
                    unreadable[done] = image.name
                    _report_unreadable(image.name, pixels, len(unreadable), max_unreadable)
                else:
                    _check(image, pixels, facts)
                    writer.put(done, pixels, image.label)
                done += 1
                progress.advance()
                if done % CHECKPOINT_IMAGES == 0:
                    staging.save(split, SplitState(done=done, unreadable=unreadable))
        except KeyboardInterrupt:
            staging.save(split, SplitState(done=done, unreadable=unreadable))
            raise
    if done != count:
        raise UsageError(f"{facts.location}: split {split} has {done:,} images, expected {count:,}")
    if len(unreadable) == count:
        raise UsageError(f"{facts.location}: split {split} has no readable image")
    if unreadable and not state.gaps_filled:
        writer.fill_gaps(sorted(unreadable))
        state = SplitState(done=done, unreadable=unreadable, gaps_filled=True)
        staging.save(split, state)
    writer.truncate(count - len(unreadable))
    return state


def describe_split(
    folder: Path, split: str, count: int, shape: tuple[int, int, int], classes: int
) -> tuple[tuple[ShardEntry, ...], SplitStatistics]:
    """Flush the shards of a split to disk and read them back: manifest entries in stored order, statistics.

    The split has `count` images of `shape` (height, width, channels) in `classes` ≥ 1 classes.
    """
    writer = SplitWriter(folder, split, count, shape)
    entries, sums, total = [], [], writer.shards
    with (
        Progress(f"computing checksums of {split}", total=total, unit="shards") as progress,
        ThreadPoolExecutor(worker_threads()) as pool,
    ):
        for entry, pixel_sums in pool.map(lambda shard: writer.describe(shard, classes), range(total)):
            entries.append(entry)
            sums.append(pixel_sums)
            progress.advance()
    return tuple(entries), reduce(PixelSums.plus, sums).statistics()


class PixelSums(NamedTuple):
    """Integer sums over images: adding them up is exact in any order."""

    class_counts: NDArray[np.int64]
    pixels: int
    """Pixels of one channel."""
    sums: NDArray[np.uint64]
    squares: NDArray[np.uint64]

    @classmethod
    def of(cls, images: NDArray[np.uint8], labels: NDArray[np.int64], classes: int) -> Self:
        """Sum over images, uint8 [count, height, width, channel], and labels, int64 [count]."""
        count, height, width, channels = images.shape
        # Sum over images first: numpy adds long rows twenty times faster than a few channels at a time.
        rows = images.reshape(count, -1)
        sums = rows.sum(axis=0, dtype=np.uint64)
        squares = np.square(rows, dtype=np.uint16).sum(axis=0, dtype=np.uint64)
        return cls(
            np.bincount(labels, minlength=classes)[:classes],
            count * height * width,
            sums.reshape(-1, channels).sum(axis=0),
            squares.reshape(-1, channels).sum(axis=0),
        )

    def plus(self, other: "PixelSums") -> "PixelSums":
        """Return the sums over both sets of images."""
        return PixelSums(
            self.class_counts + other.class_counts,
            self.pixels + other.pixels,
            self.sums + other.sums,
            self.squares + other.squares,
        )

    def statistics(self) -> SplitStatistics:
        """Return the statistics of the images summed."""
        mean = self.sums / self.pixels
        std = np.sqrt(np.maximum(self.squares / self.pixels - mean**2, 0))
        return SplitStatistics(
            class_counts=tuple(self.class_counts.tolist()), mean=tuple(mean.tolist()), std=tuple(std.tolist())
        )


class SplitWriter:
    """Writes the shards `<split>-00000.arrow`, … under `folder`, with room for `count` images of `shape`."""

    def __init__(self, folder: Path, split: str, count: int, shape: tuple[int, int, int]) -> None:
        self._folder, self._split, self._count, self._shape = folder, split, count, shape
        self._full = rows_per_shard(int(np.prod(shape)))
        self._layouts: dict[int, ShardLayout] = {}

    @cached_property
    def _positions(self) -> NDArray[np.int64]:
        return random_order(STORED_ORDER_KEY, self._count)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self._count // self._full)

    def put(self, index: int, image: Pixels, label: int) -> None:
        """Store image number `index` of the source. Idempotent, in any order."""
        self._put_at(int(self._positions[index]), image, label)

    def fill_gaps(self, missing: Sequence[int]) -> None:
        """Move rows from the end to the positions of unreadable images. Idempotent."""
        remaining = self._count - len(missing)
        gaps = {int(self._positions[index]) for index in missing}
        movable = [position for position in range(remaining, self._count) if position not in gaps]
        for gap, position in zip(sorted(gap for gap in gaps if gap < remaining), movable, strict=True):
            self._put_at(gap, *self._image_at(position))

    def truncate(self, count: int) -> None:
        """Remove the rows from `count` on, which `fill_gaps` has moved. Idempotent."""
        shards = -(-count // self._full)
        for shard in range(shards, self.shards):
            self._path(shard).unlink(missing_ok=True)
        rows = count - (shards - 1) * self._full
        if rows < self._rows(shards - 1):
            self._shorten(shards - 1, rows)
        self._count = count

    def describe(self, shard: int, classes: int) -> tuple[ShardEntry, PixelSums]:
        """Flush a shard to disk and read it back. Returns its manifest entry and its sums."""
        path, rows = self._path(shard), self._rows(shard)
        layout, file = self._layout(shard), digest_of_file(path)
        with open(path, "rb", buffering=0) as opened:
            os.fsync(opened)
            images, labels = read_rows(opened.fileno(), layout, 0, rows, self._shape)
        entry = ShardEntry(
            file=path.name,
            rows=rows,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            content_sha256=content_digest(images, labels),
            images_offset=layout.images_offset,
            labels_offset=layout.labels_offset,
        )
        return entry, PixelSums.of(images, labels, classes)

    def _path(self, shard: int) -> Path:
        return self._folder / f"{self._split}-{shard:05d}.arrow"

    def _rows(self, shard: int) -> int:
        return min(self._full, self._count - shard * self._full)

    def _layout(self, shard: int) -> ShardLayout:
        """Return the layout of a shard, created if missing. Shards of equal length have equal layouts."""
        path, rows = self._path(shard), self._rows(shard)
        if not path.exists():
            self._layouts[rows] = create_shard(path, rows, self._shape)
        elif rows not in self._layouts:
            self._layouts[rows] = layout_of(path)
        return self._layouts[rows]

    def _put_at(self, position: int, image: Pixels, label: int) -> None:
        shard, row = divmod(position, self._full)
        layout = self._layout(shard)
        with open(self._path(shard), "r+b", buffering=0) as file:
            write_rows(file.fileno(), layout, row, image[None], np.array([label]))

    def _image_at(self, position: int) -> tuple[Pixels, int]:
        shard, row = divmod(position, self._full)
        layout = self._layout(shard)
        with open(self._path(shard), "rb", buffering=0) as file:
            images, labels = read_rows(file.fileno(), layout, row, 1, self._shape)
        return images[0], int(labels[0])

    def _shorten(self, shard: int, rows: int) -> None:
        path = self._path(shard)
        with open(path, "rb", buffering=0) as file:
            images, labels = read_rows(file.fileno(), layout_of(path), 0, rows, self._shape)
        with atomic_path(path) as shorter:
            layout = create_shard(shorter, rows, self._shape)
            with open(shorter, "r+b", buffering=0) as file:
                write_rows(file.fileno(), layout, 0, images, labels)


def _decoded(images: Iterator[SourceImage]) -> Iterator[tuple[SourceImage, Pixels | UnreadableImageError]]:
    """Decode on all cores, in order, with a bounded number of images in memory."""
    pending: deque[tuple[SourceImage, Future[Pixels] | Pixels]] = deque()
    with ThreadPoolExecutor(worker_threads()) as pool:
        for image in images:
            pending.append((image, pool.submit(image.pixels) if callable(image.pixels) else image.pixels))
            if len(pending) >= IN_FLIGHT_PER_THREAD * worker_threads():
                yield _result(*pending.popleft())
        while pending:
            yield _result(*pending.popleft())


def _result(image: SourceImage, pixels: Future[Pixels] | Pixels) -> tuple[SourceImage, Pixels | UnreadableImageError]:
    try:
        return image, pixels.result() if isinstance(pixels, Future) else pixels
    except UnreadableImageError as error:
        return image, error


def _report_unreadable(name: str, error: Exception, unreadable: int, allowed: int) -> None:
    logger.warning("skipped %s: %s", name, error)
    if unreadable > allowed:
        raise UsageError(
            f"{unreadable} images cannot be read, the last is {name} ({error}): the source may be damaged."
            " Replace those files, or allow more with --max-unreadable N"
        )


def _check(image: SourceImage, pixels: Pixels, facts: SourceFacts) -> None:
    if pixels.shape != facts.image_shape:
        raise UsageError(
            f"{image.name} is {pixels.shape[1]}×{pixels.shape[0]}, but the images before it are"
            f" {facts.image_size}×{facts.image_size}: resize all of them with --image-size N"
        )
    classes = len(facts.class_names)
    if not 0 <= image.label < max(1, classes):
        raise UsageError(f"{image.name} has label {image.label}, out of range for the {classes} classes of the source")
