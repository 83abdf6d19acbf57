"""Files that are whole or absent, and folders of temporary files."""

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from progdistill.errors import LostInvariantError, UsageError

FULL_DISK: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""How a file system says that there is no room."""

FORBIDDEN: Final = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}
"""How a file system says that it is not to be written there, or not like that."""


def usage_error_of(error: Exception) -> UsageError | None:
    """A full disk or missing permission as one message, from wherever it comes; None for another error."""
    number, place = getattr(error, "errno", None), getattr(error, "filename", None)
    if found := re.search(r"\(os error (\d+)\)", str(error)):  # of a library in Rust, such as safetensors
        number = int(found[1])
    advice = "free some space there" if number in FULL_DISK else "fix its permissions" if number in FORBIDDEN else None
    if number is None or advice is None:
        return None
    return UsageError(f"cannot write {place or 'a file'}: {os.strerror(number)}; {advice}, and run the same again")


@contextmanager
def explained(cause: str, full: str, forbidden: str) -> Iterator[None]:
    """Turn a full disk or missing permission into a UsageError: the cause, the system's words, and that advice."""
    try:
        yield
    except OSError as error:
        advice = full if error.errno in FULL_DISK else forbidden if error.errno in FORBIDDEN else None
        if advice is None:
            raise
        raise UsageError(f"{cause}: {error.strerror}; {advice}") from error


def open_regular(path: Path) -> int:
    """Open a regular file for reading: nothing behind a link, and nothing that would block, such as a FIFO.

    Returns:
        The file descriptor, which the caller closes.

    Raises:
        LostInvariantError: It is a FIFO, a folder or a device.
        OSError: It is missing, a symbolic link (ELOOP), or cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise LostInvariantError(f"{path} is not a regular file: remove it")
    return descriptor


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; its file takes that name when the block ends well.

    The temporary name is always the same: what a killed process left is replaced by the next attempt. So is a link
    of that name, which would be followed.
    """
    draft = path.with_name(f".{path.name}.part")
    draft.unlink(missing_ok=True)
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old contents or the new, never a mixture."""
    with atomic_path(path) as draft, open(draft, "xb") as file:
        file.write(data)


def sweep_folder(folder: Path, before: datetime) -> int:
    """Remove files, and folders with all they hold, last changed before that time; return how many.

    Of links only the link goes, not what is behind it.
    """
    removed = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            is_folder = path.is_dir() and not path.is_symlink()
            changed = max(part.lstat().st_mtime for part in (path, *(path.rglob("*") if is_folder else ())))
            if changed >= before.timestamp():
                continue
            if is_folder:
                shutil.rmtree(path)
            else:
                path.unlink()
            removed += 1
    return removed
