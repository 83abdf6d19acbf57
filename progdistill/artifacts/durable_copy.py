"""Copies a file onto the disk and hashes it on the way, past the page cache where the file system can.

Through the page cache every byte would be copied once more and then flushed: on two cores that takes three
times as long as reading, hashing and handing the disk the very bytes that were hashed.
"""

import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from progdistill.artifacts.digest import FileDigest, digest_of_descriptor
from progdistill.artifacts.faults import reach
from progdistill.errors import LostInvariantError

BLOCK_BYTES: Final = 4096
"""Direct writes are of whole blocks, at whole blocks, from pages of memory; no disk has larger ones."""

_NO_DIRECT_WRITES: Final = {errno.EINVAL, errno.EOPNOTSUPP}
"""How a file system says that it has none."""

FULL_DISK: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""How a file system says that there is no room."""

FORBIDDEN: Final = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
"""How a file system says that it is not to be written there, or not like that."""


def copy_durably(source: Path, target: Path) -> FileDigest:
    """Copy to `target`, which must not exist; on return it is on disk. The digest is of what was written.

    Raises OSError, or LostInvariantError for a source whose length changes, leaving an unfinished `target`.
    """
    with open(source, "rb") as reader:
        size_bytes = os.fstat(reader.fileno()).st_size
        with _Target(target) as writer:
            writer.reserve(size_bytes)
            reach("file.copying")
            digest = digest_of_descriptor(reader.fileno(), into=writer.write)
            if not size_bytes == digest.size_bytes == os.fstat(reader.fileno()).st_size:
                raise LostInvariantError(f"{source} changed its length while it was copied")
            reach("file.copied")
            writer.sync()
            reach("file.synced")
    return digest


class _Target:
    """A file in the making that several threads write: whole blocks directly, the rest as ever."""

    def __init__(self, path: Path) -> None:
        self._plain = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        direct = _opened_directly(path)
        self._direct = self._plain if direct is None else direct

    def reserve(self, size_bytes: int) -> None:
        """Reserve disk space for direct writes where that can be done: none then waits for a longer file."""
        if self._direct == self._plain:
            return  # Where disk space cannot be reserved, the C library would write zeros instead.
        try:
            os.posix_fallocate(self._direct, 0, size_bytes)
        except OSError as error:
            if error.errno in FULL_DISK:
                raise

    def write(self, piece: memoryview, offset: int) -> None:
        """Write all of a piece at `offset`."""
        while piece:
            in_blocks = (len(piece) | offset) % BLOCK_BYTES == 0
            count = os.pwrite(self._direct if in_blocks else self._plain, piece, offset)
            piece, offset = piece[count:], offset + count

    def sync(self) -> None:
        """Return when everything is on disk."""
        os.fsync(self._plain)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in {self._plain, self._direct}:
            os.close(descriptor)


def _opened_directly(path: Path) -> int | None:
    """A second descriptor that writes past the page cache; None where there is no such thing."""
    if not hasattr(os, "O_DIRECT"):
        return None
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NO_DIRECT_WRITES:
            return None
        raise
