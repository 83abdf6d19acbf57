"""What importers share: image sizes, numbers of classes, published checksums, damaged files."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from progdistill.data.formats import HEAD_BYTES, describe_failure
from progdistill.data.source import SourceImage, UnreadableImageError
from progdistill.errors import UsageError
from progdistill.escape import one_line
from progdistill.progress import Progress

MAX_CLASSES: Final = 1_000_000
"""Larger numbers are IDs, not classes: a dataset stores a name for each number up to the largest."""

ANYWAY: Final = "add --unverified to prepare it as it is"


@contextmanager
def explain_damage(
    path: Path, problem: str, errors: tuple[type[Exception], ...], remedy: str = "copy or download it again"
) -> Iterator[None]:
    """Turn `errors`, which a library raises for damaged files, into UsageError "<path> is <problem> …"."""
    try:
        yield
    except errors as error:
        reason = one_line(str(error).partition("\n")[0].rstrip(":")) or type(error).__name__
        raise UsageError(f"{one_line(str(path))} is {problem} ({reason}): {remedy}") from error


def head_of_source(path: Path) -> bytes:
    """The first bytes of a file. Raises UsageError for a file that came instead of the one that was wanted."""
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    if (failure := describe_failure(head)) is not None:
        raise UsageError(f"{one_line(str(path))} is {failure}")
    return head


def parts_from(sizes: Iterable[int], start: int) -> Iterator[tuple[int, int]]:
    """Yield (part, first row) for each part of these sizes that has rows from number `start` on."""
    for part, size in enumerate(sizes):
        if start < size:
            yield part, max(start, 0)
        start -= size


def native_size(images: Iterable[SourceImage], where: str) -> int:
    """Return the size of the first readable image. Raises UsageError if it is not square, or no image is readable."""
    for image in images:
        try:
            pixels = image.pixels() if callable(image.pixels) else image.pixels
        except UnreadableImageError:
            continue
        if pixels is None:
            continue
        height, width = pixels.shape[:2]
        if height != width:
            raise UsageError(f"{image.name} is {width}×{height}: make all images square with --image-size N")
        return int(height)
    raise UsageError(f"{where} has no readable image")


def require_class_number(where: str, number: int) -> None:
    """Raise UsageError for a number that is too large for a class."""
    if number >= MAX_CLASSES:
        raise UsageError(f"{where} has class number {number}, above {MAX_CLASSES - 1}: number classes 0, 1, 2, …")


class PublishedFile(NamedTuple):
    """A file name and the MD5 that the publisher, or a library that downloads the file, states."""

    name: str
    md5: str


def verify_published(files: Sequence[tuple[Path, PublishedFile]]) -> None:
    """Compare files with their published MD5. Raises UsageError for the first that differs."""
    total = sum(path.stat().st_size for path, _ in files)
    with Progress("verifying the published files", total=total, unit="bytes") as progress:
        for path, published in files:
            hasher = hashlib.md5(usedforsecurity=False)
            with open(path, "rb") as file:
                while piece := file.read(2**22):
                    hasher.update(piece)
                    progress.advance(len(piece))
            if (found := hasher.hexdigest()) != published.md5:
                raise UsageError(
                    f"{path} is not the published {published.name}: its MD5 is {found}, expected {published.md5}."
                    f" Download it again, or {ANYWAY}"
                )


def check_counts(location: Path, found: dict[str, int], published: dict[str, int]) -> None:
    """Raise UsageError if a split does not have the published number of images."""
    for split, count in found.items():
        if count != (expected := published.get(split, 0)):
            raise UsageError(
                f"{location}: split {split} has {count:,} images, published are {expected:,}. Get the published files,"
                f" or {ANYWAY}"
            )
