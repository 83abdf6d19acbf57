"""Writes the images of a source as the shards of a split."""

import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

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
from progdistill.data.staging import PreparationState, SplitState, StagingFolder
from progdistill.data.statistics import PixelSums, SplitStatistics
from progdistill.errors import UsageError
from progdistill.progress import Progress
from progdistill.store.digest import digest_of_file, worker_threads

STORED_ORDER_KEY: Final = 0x70726F6764697374
"""Chosen once: another key would give every prepared dataset another fingerprint."""


class SplitWriter:
    """Shards `<split>-00000.arrow`, … under `folder` with room for `count` images."""

    def __init__(self, folder: Path, split: str, count: int, shape: tuple[int, int, int]) -> None:
        self._folder, self._split, self._count, self._shape = folder, split, count, shape
        self._image_bytes = int(np.prod(shape))
        self._full = rows_per_shard(self._image_bytes)
        self._places = random_order(STORED_ORDER_KEY, count)
        self._layouts: dict[int, ShardLayout] = {}

    def put(self, index: int, image: Pixels, label: int) -> None:
        """Store image number `index` of the source, in any order, any number of times."""
        self._put_at(int(self._places[index]), image, label)

    def fill_gaps(self, missing: Sequence[int]) -> None:
        """Move rows from the end to the places of images that could not be read; can be done again."""
        kept = self._count - len(missing)
        gaps = {int(self._places[index]) for index in missing}
        movable = [place for place in range(kept, self._count) if place not in gaps]
        for gap, place in zip(sorted(gap for gap in gaps if gap < kept), movable, strict=True):
            self._put_at(gap, *self._image_at(place))

    def cut(self, kept: int) -> None:
        """Remove the rows from `kept` on, which `fill_gaps` has moved; can be done again."""
        shards = -(-kept // self._full)
        for shard in range(shards, -(-self._count // self._full)):
            self._path(shard).unlink(missing_ok=True)
        last = shards - 1
        rows = kept - last * self._full
        if rows < self._room(last):
            self._shorten(last, rows)
        self._count = kept

    def described(self, classes: int) -> tuple[tuple[ShardEntry, ...], SplitStatistics]:
        """Read the shards back, safe on disk by then: their entries, and the whole split's statistics."""
        shards = range(-(-self._count // self._full))
        label, entries, total = f"sealing {self._split}", [], None
        with (
            Progress(label, total=len(shards), unit="shards") as progress,
            ThreadPoolExecutor(worker_threads()) as pool,
        ):
            for entry, sums in pool.map(lambda shard: self._described(shard, classes), shards):
                entries.append(entry)
                total = sums if total is None else total.plus(sums)
                progress.advance()
        assert total is not None, "a split has at least one shard"
        return tuple(entries), total.statistics()

    def _described(self, shard: int, classes: int) -> tuple[ShardEntry, PixelSums]:
        path, rows = self._path(shard), self._room(shard)
        layout, file = self._layout(shard), digest_of_file(path)
        with _opened(path, os.O_RDONLY) as descriptor:
            os.fsync(descriptor)
            images, labels = read_rows(descriptor, layout, 0, rows, self._shape)
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

    def _room(self, shard: int) -> int:
        return min(self._full, self._count - shard * self._full)

    def _layout(self, shard: int) -> ShardLayout:
        """Where rows lie in a shard, made if it is not there; shards of equal length are laid out alike."""
        path, rows = self._path(shard), self._room(shard)
        if not path.exists():
            self._layouts[rows] = create_shard(path, rows, self._shape)
        elif rows not in self._layouts:
            self._layouts[rows] = layout_of(path)
        return self._layouts[rows]

    def _put_at(self, place: int, image: Pixels, label: int) -> None:
        shard, row = divmod(place, self._full)
        layout = self._layout(shard)
        with _opened(self._path(shard), os.O_WRONLY) as descriptor:
            write_rows(descriptor, layout, row, image[None], np.array([label]))

    def _image_at(self, place: int) -> tuple[Pixels, int]:
        shard, row = divmod(place, self._full)
        layout = self._layout(shard)
        with _opened(self._path(shard), os.O_RDONLY) as descriptor:
            images, labels = read_rows(descriptor, layout, row, 1, self._shape)
        return images[0], int(labels[0])

    def _shorten(self, shard: int, rows: int) -> None:
        path = self._path(shard)
        with _opened(path, os.O_RDONLY) as descriptor:
            images, labels = read_rows(descriptor, layout_of(path), 0, rows, self._shape)
        shorter = path.with_suffix(".shorter")
        layout = create_shard(shorter, rows, self._shape)
        with _opened(shorter, os.O_WRONLY) as descriptor:
            write_rows(descriptor, layout, 0, images, labels)
        os.replace(shorter, path)


@contextmanager
def _opened(path: Path, mode: int) -> Iterator[int]:
    descriptor = os.open(path, mode | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


MARK_IMAGES: Final = 10_000
"""Images between two marks of how far a preparation got."""

IN_FLIGHT_PER_THREAD: Final = 4
"""Encoded images held per decoding thread: it bounds memory."""


def store_images(
    source: Source,
    split: str,
    writer: SplitWriter,
    staging: StagingFolder,
    state: PreparationState,
    max_unreadable: int,
) -> PreparationState:
    """Store the images of a split that `state` does not have yet, close the gaps; returns the new state.

    Raises UsageError as `prepare` does.
    """
    facts, before = source.facts, state.split(split)
    count, done, unreadable = facts.splits[split], before.done, dict(before.unreadable)
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
                if done % MARK_IMAGES == 0:
                    state = state.with_split(split, SplitState(done=done, unreadable=unreadable))
                    staging.mark(state)
        except KeyboardInterrupt:
            staging.mark(state.with_split(split, SplitState(done=done, unreadable=unreadable)))
            raise
    if done != count:
        raise UsageError(f"{facts.location}: split {split} has {done:,} images, announced are {count:,}")
    if len(unreadable) == count:
        raise UsageError(f"{facts.location}: split {split} has no image that can be read")
    if unreadable and not before.gaps_filled:
        writer.fill_gaps(sorted(unreadable))
        state = state.with_split(split, SplitState(done=done, unreadable=unreadable, gaps_filled=True))
        staging.mark(state)
    writer.cut(count - len(unreadable))
    return state


def _decoded(images: Iterator[SourceImage]) -> Iterator[tuple[SourceImage, Pixels | UnreadableImageError]]:
    """Decode on all cores, in order, with a bounded number of images in memory."""
    waiting: deque[tuple[SourceImage, Future[Pixels] | Pixels]] = deque()
    with ThreadPoolExecutor(worker_threads()) as pool:
        for image in images:
            pixels = pool.submit(image.pixels) if callable(image.pixels) else image.pixels
            waiting.append((image, pixels))
            if len(waiting) >= IN_FLIGHT_PER_THREAD * worker_threads():
                yield _settled(*waiting.popleft())
        while waiting:
            yield _settled(*waiting.popleft())


def _settled(
    image: SourceImage, pixels: Future[Pixels] | Pixels
) -> tuple[SourceImage, Pixels | UnreadableImageError]:
    if not isinstance(pixels, Future):
        return image, pixels
    try:
        return image, pixels.result()
    except UnreadableImageError as error:
        return image, error


def _report_unreadable(name: str, error: Exception, so_far: int, allowed: int) -> None:
    print(f"left out {name}: {error}", file=sys.stderr)
    if so_far > allowed:
        raise UsageError(
            f"{so_far} images cannot be read, the last is {name} ({error}): the source seems damaged. Replace"
            " those files, or allow more with --max-unreadable N"
        )


def _check(image: SourceImage, pixels: Pixels, facts: SourceFacts) -> None:
    if pixels.shape != facts.image_shape:
        raise UsageError(
            f"{image.name} is {_shape_text(pixels)}, but the images before it are"
            f" {facts.image_size}×{facts.image_size}: bring all to one size with --image-size N"
        )
    classes = len(facts.class_names)
    if not 0 <= image.label < max(1, classes):
        raise UsageError(
            f"{image.name} has label {image.label}, out of range: the {classes} classes of {facts.location}"
            f" are 0 to {classes - 1}: correct that label in the source"
        )


def _shape_text(pixels: Pixels) -> str:
    return f"{pixels.shape[1]}×{pixels.shape[0]}"
