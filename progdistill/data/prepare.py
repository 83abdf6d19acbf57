"""Turns a source into a prepared dataset: decodes on all cores, resumes where it stopped, publishes last."""

import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from progdistill.artifacts.digest import worker_threads
from progdistill.artifacts.store import open_store
from progdistill.data.manifest import DatasetManifest, PreparedFrom, fingerprint_of, read_manifest
from progdistill.data.source import Pixels, Source, SourceFacts, SourceImage, UnreadableImageError
from progdistill.data.split_writer import SplitWriter
from progdistill.data.staging import PreparationState, SplitState, StagingFolder, exclusively
from progdistill.errors import UsageError
from progdistill.progress import Progress

MARK_IMAGES: Final = 10_000
"""Images between two marks of how far a preparation got."""

IN_FLIGHT_PER_THREAD: Final = 4
"""Encoded images held per decoding thread: it bounds memory."""

MAX_UNREADABLE: Final = 100
"""Unreadable images left out before a preparation gives up: beyond this the source itself is suspect."""


def prepare(source: Source, name: str, out: Path, *, max_unreadable: int = MAX_UNREADABLE) -> DatasetManifest:
    """Prepare `source` as dataset `name` in folder `out`; what an interrupted call left is gone on with.

    Raises UsageError when `out` holds another dataset, or an image has another shape than the source's facts,
    a label out of range, or when more than `max_unreadable` images cannot be read.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with exclusively(out.with_name(f"{out.name}.preparing.lock")):
        present = _present(source.facts, out)
        return present or _prepare(source, name, out, max_unreadable)


def _present(facts: SourceFacts, out: Path) -> DatasetManifest | None:
    manifest = read_manifest(open_store(str(out)))
    if manifest is not None and manifest.prepared_from.identity != facts.identity:
        raise UsageError(
            f"{out} already holds dataset {manifest.name} from {manifest.prepared_from.source}, or with other"
            " options: remove it first or choose another --out"
        )
    return manifest


def _prepare(source: Source, name: str, out: Path, max_unreadable: int) -> DatasetManifest:
    facts = source.facts
    staging = StagingFolder(out.with_name(f"{out.name}.preparing"))
    state = staging.resume(facts.identity)
    splits = {}
    for split, count in facts.splits.items():
        writer = SplitWriter(staging.path, split, count, facts.image_shape)
        state = _write_split(source, split, writer, staging, state, max_unreadable)
        splits[split] = tuple(writer.entries())
    manifest = DatasetManifest(
        name=name,
        fingerprint=fingerprint_of(facts.image_shape, facts.class_names, splits),
        channels=facts.channels,
        image_size=facts.image_size,
        class_names=facts.class_names,
        horizontal_flip_safe=facts.horizontal_flip_safe,
        splits=splits,
        prepared_from=PreparedFrom(
            importer=facts.importer,
            source=facts.location,
            description=facts.description,
            identity=facts.identity,
            unreadable=tuple(
                name for split in facts.splits for name in state.split(split).unreadable.values()
            ),
        ),
    )
    staging.publish(manifest, out)
    return manifest


def _write_split(
    source: Source,
    split: str,
    writer: SplitWriter,
    staging: StagingFolder,
    state: PreparationState,
    max_unreadable: int,
) -> PreparationState:
    """Store a split's images from where the last mark left off."""
    facts, progress_of = source.facts, state.split(split)
    count, done, unreadable = facts.splits[split], progress_of.done, dict(progress_of.unreadable)
    with Progress(f"preparing {split}", total=count, unit="images", start=done) as progress:
        for image, pixels in _decoded(source.read(split, done)):
            if isinstance(pixels, Exception):
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
    if done != count:
        raise UsageError(
            f"{facts.location}: split {split} has {done:,} images where {count:,} were announced"
        )
    if len(unreadable) == count:
        raise UsageError(f"{facts.location}: split {split} has no image that can be read")
    if unreadable and not progress_of.gaps_filled:
        writer.fill_gaps(sorted(unreadable))
        state = state.with_split(split, SplitState(done=done, unreadable=unreadable, gaps_filled=True))
        staging.mark(state)
    writer.cut(count - len(unreadable))
    return state


def _decoded(images: Iterator[SourceImage]) -> Iterator[tuple[SourceImage, Pixels | Exception]]:
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


def _settled(image: SourceImage, pixels: Future[Pixels] | Pixels) -> tuple[SourceImage, Pixels | Exception]:
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
            f"{so_far} images cannot be read, the last is {name} ({error}): the source seems damaged; replace"
            " those files, or allow more with --max-unreadable N"
        )


def _check(image: SourceImage, pixels: Pixels, facts: SourceFacts) -> None:
    if pixels.shape != facts.image_shape:
        raise UsageError(
            f"{image.name} is {_shape_text(pixels.shape)}, but the images before it are"
            f" {_shape_text(facts.image_shape)}: all images of a dataset have one shape"
        )
    if not 0 <= image.label < max(1, len(facts.class_names)):
        raise UsageError(
            f"{image.name} has label {image.label}, but the labels of the {len(facts.class_names)} classes of"
            f" {facts.location} are 0 to {len(facts.class_names) - 1}"
        )


def _shape_text(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
