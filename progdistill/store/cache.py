"""Verified local copies of files from remote stores, shared by all processes of a machine, within a bound."""

import fcntl
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from progdistill.errors import UsageError
from progdistill.store.digest import FileDigest, HashingWriter, digest_of_descriptor, require_digest
from progdistill.store.files import explained, sweep_folder

Fetch = Callable[[HashingWriter], object]
"""Writes the bytes of the wanted file."""

RECENT_SECONDS: Final = 3600.0
"""A path that was handed out within this time stays: its reader may not have opened it yet."""

LEFTOVERS: Final = timedelta(days=1)
"""Temporary files that are older were left by a process that died."""

MEASUREMENTS_PER_LIMIT: Final = 64
"""The cache is measured after each 1/64 of its limit that a process adds, which may exceed it by as much."""


class BlobCache:
    """Files by digest under `folder`, the least recently used removed first, at most about `limit_bytes`.

    Every copy is verified each time it is handed out, and a damaged one fetched again. Only one process of
    the machine fetches a file; the others wait for it.
    """

    def __init__(self, folder: Path, limit_bytes: int, *, recent_seconds: float = 0) -> None:
        """A cache whose files stay for `recent_seconds` after their last use, whatever the limit."""
        self._folder, self._limit_bytes, self._recent_seconds = folder, limit_bytes, recent_seconds
        self._unmeasured_bytes = limit_bytes

    def path(self, expected: FileDigest, fetch: Fetch, where: str) -> Path:
        """Like `open`, but return the path of the read-only copy."""
        os.close(self.open(expected, fetch, where))
        return self._path(expected)

    def open(self, expected: FileDigest, fetch: Fetch, where: str) -> int:
        """Open a verified copy. It can be read to its end even if the cache removes it meanwhile.

        Args:
            expected: Digest of the wanted file.
            fetch: Fetches the file if the cache has no intact copy.
            where: Name of the file for error messages.

        Returns:
            A file descriptor to read from. The caller closes it.

        Raises:
            LostInvariantError: What is fetched is damaged, twice.
            UsageError: The cache cannot be written, or its disk is full.
        """
        with self._explained(), self._locked(expected):
            descriptor = self._open_intact(expected)
            if descriptor is not None:
                return descriptor
            staged = self._fetch_verified(expected, fetch, where)
            staged.chmod(0o444)
            descriptor = os.open(staged, os.O_RDONLY | os.O_CLOEXEC)
            os.replace(staged, self._path(expected))
            self._unmeasured_bytes += expected.size_bytes
            if self._unmeasured_bytes * MEASUREMENTS_PER_LIMIT >= self._limit_bytes:
                self._unmeasured_bytes = 0
                self._trim()
        return descriptor

    def _fetch_verified(self, expected: FileDigest, fetch: Fetch, where: str) -> Path:
        """Fetch to a new temporary file, once more if it came damaged; the caller removes it."""
        staged = self.scratch() / uuid.uuid4().hex
        try:
            if _fetched(staged, fetch) != expected:  # The damage may have come on the way.
                require_digest(_fetched(staged, fetch), expected, where)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
        return staged

    def verify(self, expected: FileDigest, fetch: Fetch, where: str) -> None:
        """Fetch the file, whatever the cache holds, and raise LostInvariantError if it is damaged."""
        with self._explained():
            self._fetch_verified(expected, fetch, where).unlink()

    def scratch(self) -> Path:
        """Return a folder on the cache's file system for temporary files."""
        folder = self._folder / "scratch"
        with self._explained():
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _open_intact(self, expected: FileDigest) -> int | None:
        path = self._path(expected)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if digest_of_descriptor(descriptor) == expected:
            with suppress(PermissionError):  # Another user's, and as good for us.
                os.utime(descriptor)
            return descriptor
        os.close(descriptor)
        path.unlink(missing_ok=True)
        return None

    def _path(self, digest: FileDigest) -> Path:
        return self._folder / digest.sha256[:2] / digest.sha256

    @contextmanager
    def _locked(self, digest: FileDigest) -> Iterator[None]:
        """Exclude other processes and threads from files whose digests begin alike."""
        folder = self._path(digest).parent
        folder.mkdir(parents=True, exist_ok=True)
        # Opened for reading: the file may be another user's.
        descriptor = os.open(folder / ".lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _trim(self) -> None:
        """Remove leftovers, and what was used longest ago; others may do so at the same time."""
        sweep_folder(self.scratch(), datetime.now(UTC) - LEFTOVERS)
        files = []
        for path in self._folder.glob("??/[!.]*"):
            with suppress(FileNotFoundError):
                facts = path.stat()
                files.append((facts.st_mtime, facts.st_size, path))
        excess = sum(size for _, size, _ in files) - self._limit_bytes
        for used_at, size, path in sorted(files):
            if excess <= 0 or time.time() - used_at < self._recent_seconds:
                return
            with suppress(PermissionError):
                path.unlink(missing_ok=True)
                excess -= size

    def _explained(self) -> AbstractContextManager[None]:
        return explained(
            f"cannot use the cache of downloads in {self._folder}",
            "free some space there, or set PROGDISTILL_CACHE to a folder with more",
            "fix its permissions, or set PROGDISTILL_CACHE to another folder",
        )


def _fetched(path: Path, fetch: Fetch) -> FileDigest:
    with open(path, "wb", buffering=0) as file:
        writer = HashingWriter(file)
        fetch(writer)
        return writer.digest()


def file_cache() -> BlobCache:
    """The cache of files that are read by path: `PROGDISTILL_CACHE_GIB` (100) in `PROGDISTILL_CACHE`."""
    limit_bytes = _limit_bytes("PROGDISTILL_CACHE_GIB", 100)
    return BlobCache(cache_folder() / "files", limit_bytes, recent_seconds=RECENT_SECONDS)


def shard_cache() -> BlobCache:
    """The cache of a dataset's shards: `PROGDISTILL_DATA_CACHE_GIB` (50) in `PROGDISTILL_CACHE`.

    Shards are read through open files, so the bound holds at any speed of training, and a dataset may be
    larger than the disk.
    """
    return BlobCache(cache_folder() / "shards", _limit_bytes("PROGDISTILL_DATA_CACHE_GIB", 50))


def cache_folder() -> Path:
    """Where this user's local copies are: `PROGDISTILL_CACHE`, else `~/.cache/progdistill`."""
    if chosen := os.environ.get("PROGDISTILL_CACHE"):
        return Path(chosen).absolute()
    try:
        users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # A container may run as a number that has no entry, and without HOME.
        raise UsageError("this user has no home folder to cache files in: set PROGDISTILL_CACHE") from None
    return (users / "progdistill").absolute()


def _limit_bytes(variable: str, default_gib: int) -> int:
    text = os.environ.get(variable, str(default_gib))
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise UsageError(f"{variable} is {text!r}: give a number of GiB, such as 100 or 0.5")
    return int(number * 2**30)
