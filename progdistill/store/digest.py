"""The digest that names files: SHA-256 by parts, for all cores to compute and S3 to check."""

import hashlib
import mmap
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Final

from pydantic import ConfigDict, NonNegativeInt, StringConstraints
from pydantic.dataclasses import dataclass

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


def digest_of_bytes(data: bytes) -> FileDigest:
    """Digest of bytes in memory, equal to that of a file with the same bytes."""
    view = memoryview(data)
    digests = [hashlib.sha256(view[start : start + length]).digest() for start, length in parts_of(len(data))]
    return FileDigest(combine(digests), len(data))


def read_part(
    descriptor: int, offset: int, length: int, *, into: Callable[[memoryview, int], object] | None = None
) -> bytes:
    """SHA-256 (32 bytes) of one part of an open file; `into(piece, offset)` sees each piece."""
    hasher = hashlib.sha256()
    # Anonymous memory begins at a page's start, which writing past the page cache asks for.
    buffer = memoryview(mmap.mmap(-1, min(PIECE_BYTES, max(length, 1))))
    end = offset + length
    while offset < end:
        count = os.preadv(descriptor, [buffer[: min(len(buffer), end - offset)]], offset)
        if count == 0:
            break  # Truncated meanwhile: the digest of what is there cannot match.
        if into is not None:
            into(buffer[:count], offset)
        hasher.update(buffer[:count])
        offset += count
    return hasher.digest()


def part_digests_of(
    descriptor: int, *, into: Callable[[memoryview, int], object] | None = None
) -> list[bytes]:
    """SHA-256 of each part of an open file, on all cores; pieces go to `into` in any order."""
    parts = parts_of(os.fstat(descriptor).st_size)
    # A thread in `into` waits for a disk, and another one hashes meanwhile.
    threads = worker_threads() if into is None else 2 * worker_threads()
    with ThreadPoolExecutor(min(threads, len(parts))) as pool:
        return list(pool.map(lambda part: read_part(descriptor, *part, into=into), parts))


def digest_of_descriptor(
    descriptor: int, *, into: Callable[[memoryview, int], object] | None = None
) -> FileDigest:
    """Digest of an open file, handing each piece to `into` on the way."""
    size_bytes = os.fstat(descriptor).st_size
    return FileDigest(combine(part_digests_of(descriptor, into=into)), size_bytes)


def digest_of_file(path: Path) -> FileDigest:
    """Digest of a file; symbolic links are not followed (OSError), so a store cannot point outside itself."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return digest_of_descriptor(descriptor)
    finally:
        os.close(descriptor)
