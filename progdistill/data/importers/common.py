"""What importers share: names of splits and classes, the image size, positions in several files, damage."""

import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from progdistill.data.image_names import readable_name
from progdistill.data.source import SourceImage, UnreadableImageError
from progdistill.errors import UsageError

SPLIT_NAMES: Final = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""From the name of a folder or file to the split it holds."""

MAX_CLASSES: Final = 1_000_000
"""Larger numbers are IDs, not classes: a dataset stores a name for each number up to the largest."""

TAR_ERRORS: Final = (tarfile.TarError, EOFError, OSError)
"""What reading a truncated or damaged archive raises."""


@contextmanager
def explain_damage(
    path: Path, problem: str, errors: tuple[type[Exception], ...], remedy: str = "copy or download it again"
) -> Iterator[None]:
    """Turn `errors`, which a library raises for damaged files, into UsageError "<path> is <problem> …"."""
    try:
        yield
    except errors as error:
        reason = str(error).partition("\n")[0].rstrip(":") or type(error).__name__
        raise UsageError(f"{path} is {problem} ({reason}): {remedy}") from error


def parts_from(sizes: Iterable[int], start: int) -> Iterator[tuple[int, int]]:
    """Yield (part, first row) for each part of these sizes that has rows from number `start` on."""
    for part, size in enumerate(sizes):
        if start < size:
            yield part, max(start, 0)
        start -= size


def native_size(images: Iterable[SourceImage], where: str) -> int:
    """Return the height and width of the first readable image.

    Raises:
        UsageError: It is not square, or no image is readable.
    """
    for image in images:
        try:
            pixels = image.pixels() if callable(image.pixels) else image.pixels
        except UnreadableImageError:
            continue
        height, width = pixels.shape[:2]
        if height != width:
            raise UsageError(f"{image.name} is {width}×{height}: make all images square with --image-size N")
        return int(height)
    raise UsageError(f"{where} has no readable image")


def require_class_number(where: str, number: int) -> None:
    """Raise UsageError for a number that is too large for a class."""
    if number >= MAX_CLASSES:
        raise UsageError(
            f"{where} has class number {number}, above {MAX_CLASSES - 1}: number classes 0, 1, 2, …"
        )


def numbered_classes(largest: int) -> tuple[str, ...]:
    """Return the numbers 0 to `largest` as class names."""
    return tuple(str(number) for number in range(largest + 1))


def require_class_folders(where: Path, names: Sequence[str], *, loose_images: bool) -> None:
    """Raise UsageError for class folders with images beside them, or whose names are not UTF-8."""
    if names and loose_images:
        raise UsageError(
            f"{where} has images beside the class folders {', '.join(names[:3])}: move them into one"
        )
    for name in names:
        if name != (shown := readable_name(name)):
            raise UsageError(f"{where} has a class whose name is not UTF-8, {shown}: rename that folder")


def read_member(archive: tarfile.TarFile, member: str | tarfile.TarInfo) -> bytes:
    """Read a file in an archive. Raises KeyError if there is no such file."""
    file = archive.extractfile(member)
    if file is None:
        raise KeyError(f"{member} is not a file")
    return file.read()
