"""Downloads from S3: ranges in parallel, hashed as they arrive, each taken again where it broke off."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError, ResponseStreamingError

from progdistill.artifacts.digest import PIECE_BYTES, FileDigest, combine, parts_of
from progdistill.artifacts.s3_errors import ABSENT, code_of
from progdistill.artifacts.s3_upload import TRANSFERS, Target
from progdistill.errors import LostInvariantError, TransientError

ATTEMPTS: Final = 6
"""Tries of one part before a download is given up; what has arrived is kept from one to the next."""


def download_file(source: Target, path: Path, expected: FileDigest) -> FileDigest:
    """Write the object to a new file and return its digest, computed on the way.

    Raises LostInvariantError when there is no such object, TransientError when the connection keeps breaking.
    """
    parts = parts_of(expected.size_bytes)
    with open(path, "xb") as file, ThreadPoolExecutor(TRANSFERS) as pool:
        futures = [pool.submit(_fetch_part, source, file.fileno(), *part) for part in parts]
        try:
            digests = [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        os.fsync(file.fileno())
    return FileDigest(combine(digests), path.stat().st_size)


def _fetch_part(source: Target, descriptor: int, offset: int, length: int) -> bytes:
    """SHA-256 of one part after writing it at its offset."""
    hasher = hashlib.sha256()
    done = 0
    for _ in range(ATTEMPTS):
        try:
            for piece in _stream(source, offset + done, length - done):
                _write(descriptor, piece, offset + done)
                hasher.update(piece)
                done += len(piece)
        except (HTTPClientError, IncompleteReadError, ResponseStreamingError):
            continue
        if done == length:
            return hasher.digest()
    raise TransientError(
        f"s3://{source.bucket}/{source.key}: the connection broke {ATTEMPTS} times; try again"
    )


def _write(descriptor: int, piece: bytes, offset: int) -> None:
    """Write all of a piece: a disk that is about to be full takes a part of it."""
    rest = memoryview(piece)
    while rest:
        count = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[count:], offset + count


def _stream(source: Target, offset: int, length: int) -> Any:
    if length == 0:
        return
    try:
        reply = source.client.get_object(**source.place, Range=f"bytes={offset}-{offset + length - 1}")
    except ClientError as error:
        if code_of(error) in ABSENT or code_of(error) == "InvalidRange":
            raise LostInvariantError(
                f"s3://{source.bucket}/{source.key} is missing from the store, or shorter than it was"
            ) from error
        raise
    yield from reply["Body"].iter_chunks(PIECE_BYTES)
