"""Files that are whole or absent, and folders of temporary files."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from progdistill.errors import UsageError

FULL_DISK: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""How a file system says that there is no room."""

FORBIDDEN: Final = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
"""How a file system says that it is not to be written there, or not like that."""


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


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; its file takes that name when the block ends well.

    The temporary name is always the same: what a killed process left is replaced by the next attempt.
    """
    draft = path.with_name(f".{path.name}.part")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old contents or the new, never a mixture."""
    with atomic_path(path) as draft:
        draft.write_bytes(data)


def sweep_folder(folder: Path, before: datetime) -> int:
    """Remove files, and folders with all they hold, last changed before that time; return how many."""
    removed = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            changed = max(part.stat().st_mtime for part in (path, *path.rglob("*")))
            if changed >= before.timestamp():
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
            removed += 1
    return removed
