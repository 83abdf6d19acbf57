"""Verified local copies of shards from remote stores, shared by all ranks of a host, within a bound.

Readers get open files, never paths: a copy can be removed while it is read, so the bound holds at any speed
of training, and a dataset may be larger than the disk.
"""

import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from progdistill.errors import LostInvariantError, UsageError
from progdistill.store.cache import cache_folder
from progdistill.store.digest import FileDigest, digest_of_bytes, digest_of_descriptor

DEFAULT_LIMIT_GIB: Final = 50

SCANS_PER_LIMIT: Final = 64
"""A process measures the folder after adding 1/64 of the limit, which may be exceeded by as much."""

LEFTOVER_SECONDS: Final = 3600.0
"""Files in the making that are older were left by a process that died."""


class ShardCache:
    """Copies under `folder`, the least recently opened removed first, at most about `limit_bytes`."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes
        self._unmeasured_bytes = 0

    def open(self, expected: FileDigest, fetch: Callable[[], bytes | None], where: str) -> int:
        """Open a verified copy, fetched if it is not here; only one process of the host fetches it.

        Raises LostInvariantError, with `where`, when what is fetched is missing or damaged, UsageError when
        the disk is full.
        """
        with self._locked(expected):
            descriptor = self._find(expected)
            if descriptor is None:
                self._store(expected, _fetched(expected, fetch, where))
                descriptor = os.open(self._path(expected), os.O_RDONLY | os.O_CLOEXEC)
        self._unmeasured_bytes += expected.size_bytes
        if self._unmeasured_bytes * SCANS_PER_LIMIT >= self._limit_bytes:
            self._unmeasured_bytes = 0
            self._trim()
        return descriptor

    def _find(self, expected: FileDigest) -> int | None:
        """Open the copy if it is there and intact; a damaged one is removed."""
        path = self._path(expected)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if digest_of_descriptor(descriptor) == expected:
            os.utime(descriptor)
            return descriptor
        os.close(descriptor)
        path.unlink(missing_ok=True)
        return None

    def _store(self, expected: FileDigest, data: bytes) -> None:
        path = self._path(expected)
        staged = path.with_name(f".{uuid.uuid4().hex}")
        try:
            staged.write_bytes(data)
            os.replace(staged, path)
        except OSError as error:
            staged.unlink(missing_ok=True)
            raise UsageError(
                f"cannot keep a shard in {self._folder}: {error.strerror}; make room, or name another folder"
                " in PROGDISTILL_CACHE or a lower bound in PROGDISTILL_DATA_CACHE_GIB"
            ) from error

    def _path(self, digest: FileDigest) -> Path:
        return self._folder / digest.sha256[:2] / digest.sha256

    @contextmanager
    def _locked(self, digest: FileDigest) -> Iterator[None]:
        """Exclude other processes and threads from shards whose digests begin alike."""
        folder = self._path(digest).parent
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _trim(self) -> None:
        """Remove leftovers, and the copies opened longest ago until the bound holds."""
        files = []
        for path in self._folder.glob("*/*"):
            with suppress(FileNotFoundError):
                facts = path.stat()
                if path.name != ".lock":
                    files.append((facts.st_mtime, facts.st_size, path))
        excess = sum(size for _, size, _ in files) - self._limit_bytes
        for opened_at, size, path in sorted(files):
            in_the_making = path.name.startswith(".")
            if in_the_making and time.time() - opened_at < LEFTOVER_SECONDS:
                continue
            if excess > 0 or in_the_making:
                path.unlink(missing_ok=True)
                excess -= size


def default_shard_cache() -> ShardCache:
    """The cache beside that of files, of `PROGDISTILL_DATA_CACHE_GIB`."""
    limit = os.environ.get("PROGDISTILL_DATA_CACHE_GIB", str(DEFAULT_LIMIT_GIB))
    try:
        return ShardCache(cache_folder() / "shards", int(float(limit) * 2**30))
    except ValueError as error:
        raise UsageError(f"PROGDISTILL_DATA_CACHE_GIB is {limit!r}: give a number of GiB") from error


def _fetched(expected: FileDigest, fetch: Callable[[], bytes | None], where: str) -> bytes:
    """Fetch, and fetch again if it came damaged, since the damage may have come on the way."""
    found = None
    for _ in range(2):
        data = fetch()
        if data is None:
            raise LostInvariantError(f"{where} is missing")
        found = digest_of_bytes(data)
        if found == expected:
            return data
    assert found is not None
    raise LostInvariantError(damage(where, found, expected))


def damage(where: str, found: FileDigest, expected: FileDigest) -> str:
    """What is wrong with a shard, with both digests."""
    return (
        f"{where} is damaged: {found.size_bytes:,} bytes with SHA-256 {found.sha256}, expected"
        f" {expected.size_bytes:,} bytes with {expected.sha256}"
    )
