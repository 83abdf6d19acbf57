"""Moves one split's images from a source into its writer: decoded on all cores, checked, marked."""

import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from progdistill.artifacts.digest import worker_threads
from progdistill.data.source import Pixels, Source, SourceFacts, SourceImage, UnreadableImageError
from progdistill.data.split_writer import SplitWriter
from progdistill.data.staging import PreparationState, SplitState, StagingFolder
from progdistill.errors import UsageError
from progdistill.progress import Progress

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
