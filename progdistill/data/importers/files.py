"""The files of a source that are looked at one by one: below a folder, in sorted order; hidden ones are not used."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from progdistill.data.importers.unused import Unused
from progdistill.data.source import UnreadableImageError
from progdistill.errors import UsageError
from progdistill.escape import one_line

MAX_FILE_BYTES: Final = 2**28
"""A larger encoded image is not read."""

MAX_DEPTH: Final = 100
"""Folders nested deeper are refused: no dataset has so many."""

_HIDDEN: Final = frozenset({"__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "@eadir", "lost+found"})


class FoundFile(NamedTuple):
    """A file below the source, not read yet."""

    folders: tuple[str, ...]
    name: str
    size: int
    """In bytes; -1: unknown."""
    modified: str
    """Its time of modification, as text that identifies it."""
    read: Callable[[int], bytes]
    """Reads up to so many bytes from the start."""
    container: int = 0
    """Number of the folder or archive that it was found in."""

    @property
    def path(self) -> str:
        """Below the source."""
        return "/".join((*self.folders, self.name))


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is a program's own: never a class, an image or a label."""
    return name.startswith(".") or name.lower() in _HIDDEN


def walk(root: Path, unused: Unused) -> Iterator[FoundFile]:
    """Yield the files below a folder: of each folder first its files, then its subfolders, both sorted by name.

    Links to folders are followed, except to those that contain them or are used already. Raises UsageError for a folder
    that cannot be read.
    """
    yield from _walk(root, (), {_identity(root)}, unused)


def _walk(root: Path, folders: tuple[str, ...], seen: set[tuple[int, int]], unused: Unused) -> Iterator[FoundFile]:
    folder, subfolders = root.joinpath(*folders), []
    if len(folders) > MAX_DEPTH:
        raise UsageError(f"{one_line(str(folder))} is more than {MAX_DEPTH} folders deep: give the images' folder")
    for name in _names(folder):
        path, where = folder / name, "/".join((*folders, name))
        if is_hidden(name):
            unused.add("hidden", where)
        elif path.is_dir():
            subfolders.append(name)
        else:
            yield _found(path, folders, name)
    for name in subfolders:
        path = folder / name
        if (identity := _identity(path)) in seen:
            unused.add("link to a folder that is used already", "/".join((*folders, name)))
            continue
        seen.add(identity)
        yield from _walk(root, (*folders, name), seen, unused)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise UsageError(f"cannot read the folder {one_line(str(folder))}: {error.strerror}") from error


def _identity(folder: Path) -> tuple[int, int]:
    facts = folder.stat()
    return facts.st_dev, facts.st_ino


def _found(path: Path, folders: tuple[str, ...], name: str) -> FoundFile:
    try:
        facts = path.stat()
        return FoundFile(folders, name, facts.st_size, str(facts.st_mtime_ns), partial(read_file, path))
    except OSError as error:  # A dangling link: counted, and skipped by name when read.
        return FoundFile(folders, name, -1, type(error).__name__, partial(read_file, path))


def read_file(path: Path, limit: int) -> bytes:
    """Read up to `limit` bytes. Raises UnreadableImageError for what is no file, or cannot be read."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise UnreadableImageError("it is not a file")
        with open(path, "rb") as file:
            return file.read(min(limit, facts.st_size))  # As many bytes are allocated as are asked for.
    except OSError as error:
        raise UnreadableImageError(error.strerror or str(error)) from error


def read_whole(file: FoundFile) -> bytes:
    """Read an image file. Raises UnreadableImageError for one that is too large, or cannot be read."""
    if file.size > MAX_FILE_BYTES:
        raise UnreadableImageError(f"it has {file.size:,} bytes, more than {MAX_FILE_BYTES:,}")
    return file.read(MAX_FILE_BYTES)


def head_of(file: FoundFile, count: int) -> bytes | None:
    """Read the first bytes of a file; None if it cannot be read."""
    with suppress(UnreadableImageError):
        return file.read(count)
    return None
