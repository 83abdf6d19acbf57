"""Verified local copies of files from remote stores, the least recently used removed first."""

import math
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from progdistill.errors import UsageError
from progdistill.store.digest import FileDigest, digest_of_file
from progdistill.store.local import FORBIDDEN, FULL_DISK

RECENT_SECONDS: Final = 3600.0
"""What was handed out within this time is never removed: its reader may not have opened it yet."""


class FileCache:
    """Files by digest under `folder`, at most `limit_bytes` of them (recent ones aside)."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes

    def find(self, digest: FileDigest) -> Path | None:
        """Return the intact copy, None when there is none; a damaged one is removed."""
        path = self._path(digest)
        try:
            if digest_of_file(path) == digest:
                with suppress(PermissionError):  # Another user's, and as good for us.
                    os.utime(path)
                return path
        except FileNotFoundError:
            return None
        path.unlink(missing_ok=True)
        return None

    def adopt(self, staged: Path, digest: FileDigest) -> Path:
        """Move a verified file from `scratch()` into the cache."""
        path = self._path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.chmod(0o444)
        os.replace(staged, path)
        self._trim()
        return path

    def scratch(self) -> Path:
        """Return a folder on the cache's file system for files in the making."""
        folder = self._folder / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def stage(self) -> Path:
        """Return a fresh path in the scratch folder."""
        return self.scratch() / uuid.uuid4().hex

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what the file system refuses while the cache is used into a UsageError."""
        try:
            yield
        except OSError as error:
            cause = f"cannot use the cache of downloads in {self._folder}: {error.strerror}"
            if error.errno in FULL_DISK:
                raise UsageError(
                    f"{cause}; free some space there, or set PROGDISTILL_CACHE to a folder with more"
                ) from error
            if error.errno in FORBIDDEN:
                raise UsageError(
                    f"{cause}; mend its permissions, or set PROGDISTILL_CACHE to another folder"
                ) from error
            raise

    def _path(self, digest: FileDigest) -> Path:
        return self._folder / "files" / digest.sha256[:2] / digest.sha256

    def _trim(self) -> None:
        """Others may trim the same cache at the same time."""
        files = []
        for path in (self._folder / "files").glob("*/*"):
            with suppress(FileNotFoundError):
                files.append((path.stat(), path))
        excess = sum(facts.st_size for facts, _ in files) - self._limit_bytes
        for facts, path in sorted(files, key=lambda file: file[0].st_mtime):
            if excess <= 0 or time.time() - facts.st_mtime < RECENT_SECONDS:
                return
            with suppress(PermissionError):
                path.unlink(missing_ok=True)
                excess -= facts.st_size


def default_cache() -> FileCache:
    """The cache in `cache_folder()` of `PROGDISTILL_CACHE_GIB` (100)."""
    limit = _gibibytes(os.environ.get("PROGDISTILL_CACHE_GIB", "100"))
    return FileCache(cache_folder(), int(limit * 2**30))


def cache_folder() -> Path:
    """`PROGDISTILL_CACHE`, else a folder in the user's cache folder."""
    if chosen := os.environ.get("PROGDISTILL_CACHE"):
        return Path(chosen).absolute()
    try:
        users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # A container may run as a number that has no entry, and without HOME.
        raise UsageError("this user has no home folder to cache files in: set PROGDISTILL_CACHE") from None
    return (users / "progdistill").absolute()


def _gibibytes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise UsageError(f"PROGDISTILL_CACHE_GIB is {text!r}: give a number of GiB, such as 100 or 0.5")
    return number
