"""Writes one split of a source as shards: decodes on all cores, records how far it got, skips bad images."""

import hashlib
import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from progdistill.data.columns import CAPTION, IMAGE, LABEL, Column, Rows, caption_bytes
from progdistill.data.manifest import SplitStatistics
from progdistill.data.order import random_order
from progdistill.data.shards import (
    ShardEntry,
    ShardLayout,
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
from progdistill.store.digest import digest_of_descriptor, worker_threads
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
    writer = SplitWriter(staging.path, split, count, facts.stored_columns)
    with Progress(f"preparing {split}", total=count, unit="images", start=done) as progress:
        try:
            for image, decoding in _decoding(source.read(split, done)):
                try:
                    pixels = decoding.result() if isinstance(decoding, Future) else decoding
                except UnreadableImageError as error:
                    unreadable[done] = image.name
                    _report_unreadable(image.name, error, len(unreadable), max_unreadable)
                else:
                    _check(image, pixels, facts)
                    writer.put(done, _row_of(image, pixels, facts))
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
    folder: Path, split: str, count: int, columns: Sequence[Column], classes: int
) -> tuple[tuple[ShardEntry, ...], SplitStatistics]:
    """Flush the shards of a split to disk and read them back: manifest entries in stored order, and statistics."""
    writer, entries = SplitWriter(folder, split, count, columns), []
    shape = next((column.shape for column in columns if column.name == IMAGE), (1, 1, 0))
    class_counts, sums = np.zeros(classes, np.int64), np.zeros((2, shape[2]), np.uint64)
    with (
        Progress(f"computing checksums of {split}", total=writer.shards, unit="shards") as progress,
        ThreadPoolExecutor(worker_threads()) as pool,
    ):
        for entry, labels, shard_sums in pool.map(writer.describe, range(writer.shards)):
            entries.append(entry)
            class_counts += np.bincount(labels, minlength=classes)
            sums += shard_sums
            progress.advance()
    mean, mean_square = sums / (count * shape[0] * shape[1])
    std = np.sqrt(np.maximum(mean_square - mean**2, 0))
    return tuple(entries), SplitStatistics(class_counts=class_counts.tolist(), mean=mean.tolist(), std=std.tolist())


class SplitWriter:
    """Writes the shards `<split>-00000.arrow`, … under `folder`, with room for `count` samples with these columns."""

    def __init__(self, folder: Path, split: str, count: int, columns: Sequence[Column]) -> None:
        self._folder, self._split, self._count, self._columns = folder, split, count, columns
        self._full = rows_per_shard(columns)
        self._layouts: dict[int, ShardLayout] = {}

    @cached_property
    def _positions(self) -> NDArray[np.int64]:
        return random_order(STORED_ORDER_KEY, self._count)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self._count // self._full)

    def put(self, index: int, row: Rows) -> None:
        """Store image number `index` of the source, a single row. Idempotent, in any order."""
        self._put_at(int(self._positions[index]), row)

    def fill_gaps(self, missing: Sequence[int]) -> None:
        """Move rows from the end to the positions of unreadable images. Idempotent."""
        remaining = self._count - len(missing)
        gaps = {int(self._positions[index]) for index in missing}
        movable = [position for position in range(remaining, self._count) if position not in gaps]
        for gap, position in zip(sorted(gap for gap in gaps if gap < remaining), movable, strict=True):
            shard, row = divmod(position, self._full)
            self._put_at(gap, self._read(self._path(shard), self._layout(shard), row, 1))

    def truncate(self, count: int) -> None:
        """Remove the rows from `count` on, which `fill_gaps` has moved. Idempotent."""
        last, row = divmod(count - 1, self._full)
        for shard in range(last + 1, self.shards):
            self._path(shard).unlink(missing_ok=True)
        if row + 1 < self._rows(last):
            path = self._path(last)
            kept = self._read(path, layout_of(path), 0, row + 1)
            with atomic_path(path) as shorter:
                write_rows(shorter, create_shard(shorter, row + 1, self._columns), 0, kept)
        self._count = count

    def describe(self, shard: int) -> tuple[ShardEntry, NDArray[np.int64], NDArray[np.uint64]]:
        """Flush a shard to disk and read it back.

        Returns its manifest entry, its labels, and the sums of each channel's pixels and of their squares, uint64
        [2, channels], which can be added up exactly in any order.
        """
        entry, rows = described(self._path(shard), self._rows(shard), self._layout(shard), self._columns)
        images = rows.get(IMAGE)
        if images is None:
            return entry, rows[LABEL], np.zeros((2, 0), np.uint64)
        # Sum over images first: numpy adds long rows twenty times faster than a few channels at a time.
        flat = images.reshape(len(images), -1)
        sums = flat.sum(axis=0, dtype=np.uint64), np.square(flat, dtype=np.uint16).sum(axis=0, dtype=np.uint64)
        return entry, rows[LABEL], np.stack(sums).reshape(2, -1, images.shape[-1]).sum(axis=1)

    def _path(self, shard: int) -> Path:
        return self._folder / f"{self._split}-{shard:05d}.arrow"

    def _rows(self, shard: int) -> int:
        return min(self._full, self._count - shard * self._full)

    def _layout(self, shard: int) -> ShardLayout:
        """Return the layout of a shard, created if missing. Shards of equal length have equal layouts."""
        path, rows = self._path(shard), self._rows(shard)
        if not path.exists():
            self._layouts[rows] = create_shard(path, rows, self._columns)
        elif rows not in self._layouts:
            self._layouts[rows] = layout_of(path)
        return self._layouts[rows]

    def _put_at(self, position: int, row: Rows) -> None:
        shard, start = divmod(position, self._full)
        write_rows(self._path(shard), self._layout(shard), start, row)

    def _read(self, path: Path, layout: ShardLayout, start: int, count: int) -> Rows:
        with open(path, "rb", buffering=0) as file:
            return read_rows(file.fileno(), layout, start, count, self._columns)


def described(
    path: Path, rows: int, layout: ShardLayout, columns: Sequence[Column]
) -> tuple[ShardEntry, dict[str, NDArray[Any]]]:
    """Flush a shard to disk and read it back: its manifest entry, and its rows."""
    with open(path, "rb", buffering=0) as file:
        os.fsync(file)
        digest = digest_of_descriptor(file.fileno())
        found = read_rows(file.fileno(), layout, 0, rows, columns)
    content = hashlib.sha256()
    for column in columns:
        content.update(found[column.name].data)
    entry = ShardEntry(file=path.name, rows=rows, digest=digest, layout=layout, content_sha256=content.hexdigest())
    return entry, found


def _row_of(image: SourceImage, pixels: Pixels | None, facts: SourceFacts) -> Rows:
    row: dict[str, NDArray[Any]] = {LABEL: np.array([image.label], "<i8")}
    if pixels is not None:
        row[IMAGE] = pixels[None]
    for column in facts.columns:
        if column.name == CAPTION:
            row[CAPTION] = caption_bytes([image.caption], column.shape[0])
    return row


def _decoding(images: Iterator[SourceImage]) -> Iterator[tuple[SourceImage, Future[Pixels] | Pixels | None]]:
    """Decode on all cores, in order, with a bounded number of images in memory."""
    pending: deque[tuple[SourceImage, Future[Pixels] | Pixels | None]] = deque()
    with ThreadPoolExecutor(worker_threads()) as pool:
        for image in images:
            pending.append((image, pool.submit(image.pixels) if callable(image.pixels) else image.pixels))
            if len(pending) >= IN_FLIGHT_PER_THREAD * worker_threads():
                yield pending.popleft()
        yield from pending


def _report_unreadable(name: str, error: Exception, unreadable: int, allowed: int) -> None:
    logger.warning("skipped %s: %s", name, error)
    if unreadable > allowed:
        raise UsageError(
            f"{unreadable} images cannot be read, the last is {name} ({error}): the source may be damaged."
            " Replace those files, or allow more with --max-unreadable N"
        )


def _check(image: SourceImage, pixels: Pixels | None, facts: SourceFacts) -> None:
    if pixels is not None and pixels.shape != facts.image_shape:
        raise UsageError(
            f"{image.name} is {pixels.shape[1]}×{pixels.shape[0]}, but the images before it are"
            f" {facts.image_size}×{facts.image_size}: resize all of them with --image-size N"
        )
    classes = len(facts.class_names)
    if not 0 <= image.label < max(1, classes):
        raise UsageError(f"{image.name} has label {image.label}, out of range for the {classes} classes of the source")
