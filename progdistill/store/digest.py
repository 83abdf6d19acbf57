"""The digest that names files: SHA-256 by parts, for all cores to compute and S3 to check."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import ConfigDict, NonNegativeInt, StringConstraints
from pydantic.dataclasses import dataclass

from progdistill.errors import LostInvariantError
from progdistill.store.files import open_regular

PART_BYTES: Final = 16 * 2**20
"""Part of a digest and of a multipart upload. Changing it renames every larger file: it never changes."""

PIECE_BYTES: Final = 2**18
"""How much is read at a time: it stays in a core's cache between reading and hashing."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in lower-case hex. The pattern also keeps digests from naming paths outside a store."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FileDigest:
    """What identifies a file's bytes, in memory and in records: its digest, and its size in bytes."""

    sha256: Sha256
    size_bytes: NonNegativeInt


def require_digest(found: FileDigest, expected: FileDigest, where: str) -> None:
    """Raise LostInvariantError, naming the file by `where`, unless its digest is the expected one."""
    if found != expected:
        raise LostInvariantError(
            f"{where} is damaged: {found.size_bytes:,} bytes with digest {found.sha256}, expected"
            f" {expected.size_bytes:,} bytes with {expected.sha256} (docs/disaster_recovery.md)"
        )


def worker_threads() -> int:
    """Threads for work on parts: the cores this process may use, at most 8 (bounds memory)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(8, cores or 1)


def parts_of(size_bytes: int) -> list[tuple[int, int]]:
    """Return (offset, length) of each part of a file of `size_bytes`; an empty file has one empty part."""
    if size_bytes == 0:
        return [(0, 0)]
    return [(start, min(PART_BYTES, size_bytes - start)) for start in range(0, size_bytes, PART_BYTES)]


def combine(part_digests: Sequence[bytes]) -> str:
    """Join the parts' SHA-256 (32 bytes each) into the file's.

    One part: its own, as `sha256sum` prints it. More: SHA-256 over their concatenation, as S3's composite.
    """
    if len(part_digests) == 1:
        return part_digests[0].hex()
    return hashlib.sha256(b"".join(part_digests)).hexdigest()


class HashingWriter:
    """Writes a new file and hashes each part as it arrives: parts in any order, each from its start to its end."""

    def __init__(self, file: FileIO) -> None:
        self._file, self._offset = file, 0
        self._parts: dict[int, tuple[Any, int]] = {}
        """By number: the hasher, and how many bytes of the part have been hashed."""

    def seekable(self) -> bool:
        """True: s3transfer then writes pieces as they come; 0.19 hangs on more than 10 parts written in order."""
        return True

    def seek(self, offset: int) -> None:
        """Let the next write begin at `offset`. At the start of a part, the part is written again."""
        self._offset = offset

    def write(self, data: bytes) -> None:
        """Write all of `data`."""
        rest = memoryview(data)
        while rest:
            part, inside = divmod(self._offset, PART_BYTES)
            hasher, hashed = self._parts.get(part, (None, 0)) if inside else (hashlib.sha256(), 0)
            if hashed != inside:
                raise ValueError(f"write at {inside} of part {part}, of which {hashed} bytes have been written")
            count = os.pwrite(self._file.fileno(), rest[: PART_BYTES - inside], self._offset)
            hasher.update(rest[:count])
            self._parts[part] = hasher, inside + count
            rest, self._offset = rest[count:], self._offset + count

    def digest(self) -> FileDigest:
        """Return the digest of the file."""
        hashers = [hasher for _, (hasher, _) in sorted(self._parts.items())] or [hashlib.sha256()]
        return FileDigest(combine([hasher.digest() for hasher in hashers]), os.fstat(self._file.fileno()).st_size)


def _digest_of_part(descriptor: int, offset: int, length: int, copy_to: int | None = None) -> bytes:
    hasher, buffer, end = hashlib.sha256(), memoryview(bytearray(min(PIECE_BYTES, length))), offset + length
    while offset < end:
        count = os.preadv(descriptor, [buffer[: end - offset]], offset)
        if count == 0:
            break  # Truncated meanwhile: the digest of what is there cannot match.
        if copy_to is not None:
            count = os.pwrite(copy_to, buffer[:count], offset)
        hasher.update(buffer[:count])
        offset += count
    if copy_to is not None:
        os.fdatasync(copy_to)  # The disk works while other threads hash.
    return hasher.digest()


def digest_of_descriptor(descriptor: int, copy_to: int | None = None) -> FileDigest:
    """Digest of an open file, computed on all cores; `copy_to` is the descriptor of a new file that gets the bytes."""
    size_bytes = os.fstat(descriptor).st_size
    parts = parts_of(size_bytes)
    threads = worker_threads() * (1 if copy_to is None else 2)  # Copying, half of them wait for the disk.
    with ThreadPoolExecutor(min(threads, len(parts))) as pool:
        digests = pool.map(lambda part: _digest_of_part(descriptor, part[0], part[1], copy_to), parts)
        return FileDigest(combine(list(digests)), size_bytes)


def digest_of_file(path: Path) -> FileDigest:
    """Digest of a regular file; symbolic links are not followed (OSError), so a store cannot point outside itself."""
    descriptor = open_regular(path)
    try:
        return digest_of_descriptor(descriptor)
    finally:
        os.close(descriptor)
