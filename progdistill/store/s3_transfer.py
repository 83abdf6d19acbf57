"""Transfers to and from S3, and what its errors mean."""

import base64
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ResponseStreamingError,
)

from progdistill.errors import LostInvariantError, ProgdistillError, TransientError, UsageError
from progdistill.store.digest import PART_BYTES, PIECE_BYTES, FileDigest, combine, parts_of
from progdistill.store.failpoints import failpoint

ABSENT: Final = {"404", "NoSuchKey", "NotFound"}
CONFLICT: Final = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}

DAMAGE_ATTEMPTS: Final = 4

_DAMAGED: Final = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch"}

_HINTS: Final = {
    "NoSuchBucket": "create the bucket or mend the --store URI",
    "AccessDenied": "the credentials lack permission for this bucket and prefix",
    "InvalidAccessKeyId": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile",
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID",
    "ExpiredToken": "renew the credentials and run the command again: uploads go on where they stopped",
    "InvalidToken": "renew the credentials and run the same command again",
    "RequestTimeTooSkewed": "this machine's clock is off by more than 15 minutes: set it (NTP)",
    "QuotaExceeded": "free some space (`progdistill checkpoints gc`) or choose another --store",
    "InsufficientStorage": "free some space (`progdistill checkpoints gc`) or choose another --store",
}


def code_of(error: ClientError) -> str:
    """The server's name for the error, else the HTTP status as text."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    """The HTTP status, 0 if unknown."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def resent_if_damaged(call: Callable[[], Any]) -> Any:
    """Call, and call again when the server saw other bytes than were sent (their checksum told it)."""
    for _ in range(DAMAGE_ATTEMPTS - 1):
        try:
            return call()
        except ClientError as error:
            if code_of(error) not in _DAMAGED:
                raise
    return call()


@contextmanager
def explained(uri: str, action: str) -> Iterator[None]:
    """Turn botocore's errors into ours, with what the user can do about them."""
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise translated(error, uri, action) from error


def translated(error: ClientError | BotoCoreError, uri: str, action: str) -> ProgdistillError:
    """The error of ours that a failed request amounts to.

    Botocore has already retried throttling, server errors and broken connections with backoff.
    """
    cause = f"cannot {action} in store {uri}"
    if isinstance(error, NoCredentialsError | PartialCredentialsError | NoRegionError):
        return UsageError(f"{cause}: {error}; set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION")
    if not isinstance(error, ClientError):
        return TransientError(f"{cause}: {error}")
    code = code_of(error)
    message = error.response.get("Error", {}).get("Message", code)
    if hint := _HINTS.get(code):
        return UsageError(f"{cause}: {message} ({code}); {hint}")
    if status_of(error) in (401, 403):
        return UsageError(f"{cause}: {message} ({code}); check the credentials and the bucket's policy")
    return TransientError(f"{cause}: {message} ({code})")


TRANSFERS: Final = 8
"""Parts in flight: bounds memory to 8 × 16 MiB."""

REUSE_PERIOD: Final = timedelta(days=1)
"""An object stored within this time is not uploaded again: garbage collection waits longer."""


class Target(NamedTuple):
    """Where an upload goes."""

    client: Any
    """A boto3 S3 client."""
    bucket: str
    key: str

    @property
    def place(self) -> dict[str, str]:
        """The arguments that name the object in every call."""
        return {"Bucket": self.bucket, "Key": self.key}


def upload_file(target: Target, path: Path, digests: Sequence[bytes]) -> None:
    """Store a file whose parts have the given SHA-256; the server verifies each part and the whole.

    Publishers of the same file share one multipart upload: whoever completes it has done it for all.
    """
    if is_stored(target, path.stat().st_size, digests):
        return
    with open(path, "rb") as file:
        if len(digests) == 1:
            body = file.read()
            checksum = _base64(digests[0])
            resent_if_damaged(
                lambda: target.client.put_object(**target.place, Body=body, ChecksumSHA256=checksum)
            )
            failpoint("upload.completed")
            return
        try:
            _upload_parts(target, file.fileno(), digests)
        except ClientError as error:
            if code_of(error) != "NoSuchUpload":
                raise
            # Somebody else has completed the upload, or aborted it.
            if not is_stored(target, path.stat().st_size, digests):
                _upload_parts(target, file.fileno(), digests)


def is_stored(target: Target, size_bytes: int, digests: Sequence[bytes]) -> bool:
    """Whether the object is there, whole, and young enough to be safe from garbage collection."""
    try:
        found = target.client.head_object(**target.place, ChecksumMode="ENABLED")
    except ClientError as error:
        if code_of(error) in ABSENT:
            return False
        raise
    now = parsedate_to_datetime(found["ResponseMetadata"]["HTTPHeaders"]["date"])
    intact = found.get("ChecksumSHA256") == _checksum(digests) and found["ContentLength"] == size_bytes
    return bool(intact and now - found["LastModified"] < REUSE_PERIOD)


def abort_uploads(client: Any, bucket: str, prefix: str, before: datetime) -> int:
    """Abort multipart uploads under a prefix that were begun before that time; return how many."""
    pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
    uploads = [upload for page in pages for upload in page.get("Uploads", [])]
    old = [upload for upload in uploads if upload["Initiated"] < before]
    for upload in old:
        try:
            client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        except ClientError as error:
            if code_of(error) != "NoSuchUpload":  # Completed or aborted since.
                raise
    return len(old)


def _upload_parts(target: Target, descriptor: int, digests: Sequence[bytes]) -> None:
    upload_id = _open_upload(target)
    parts = _Parts(target, upload_id, descriptor, digests, _parts_there(target, upload_id))
    with ThreadPoolExecutor(TRANSFERS) as pool:
        futures = [pool.submit(parts.send, number) for number in range(1, len(digests) + 1)]
        try:
            sent = [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    failpoint("upload.parts")
    target.client.complete_multipart_upload(
        **target.place,
        UploadId=upload_id,
        MultipartUpload={"Parts": sent},
        ChecksumSHA256=_checksum(digests),
        ChecksumType="COMPOSITE",
    )
    failpoint("upload.completed")


class _Parts(NamedTuple):
    """The parts of one open file on their way into one multipart upload."""

    target: Target
    upload_id: str
    descriptor: int
    digests: Sequence[bytes]
    there: dict[int, dict[str, Any]]
    """What the server has already, by part number."""

    def send(self, number: int) -> dict[str, Any]:
        """Send part `number` (from 1) unless the server has it; returns what completing says of it."""
        digest = self.digests[number - 1]
        body = os.pread(self.descriptor, PART_BYTES, (number - 1) * PART_BYTES)
        etag = _reusable_etag(self.there.get(number), body, digest)
        part = {"PartNumber": number, "ChecksumSHA256": _base64(digest)}
        if etag is None:
            place = self.target.place | {"UploadId": self.upload_id}
            sent = resent_if_damaged(lambda: self.target.client.upload_part(**place, **part, Body=body))
            etag = sent["ETag"]
            failpoint("upload.part")
        return part | {"ETag": etag}


def _open_upload(target: Target) -> str:
    """The id of the oldest unfinished upload of this object, else of a new one."""
    listed = target.client.list_multipart_uploads(Bucket=target.bucket, Prefix=target.key)
    unfinished = [upload for upload in listed.get("Uploads", []) if upload["Key"] == target.key]
    if unfinished:
        return str(min(unfinished, key=lambda upload: upload["Initiated"])["UploadId"])
    created = target.client.create_multipart_upload(
        **target.place, ChecksumAlgorithm="SHA256", ChecksumType="COMPOSITE"
    )
    failpoint("upload.created")
    return str(created["UploadId"])


def _parts_there(target: Target, upload_id: str) -> dict[int, dict[str, Any]]:
    pages = target.client.get_paginator("list_parts").paginate(**target.place, UploadId=upload_id)
    return {part["PartNumber"]: part for page in pages for part in page.get("Parts", [])}


def _reusable_etag(there: dict[str, Any] | None, body: bytes, sha256: bytes) -> str | None:
    """The ETag of a part already stored if it is the same part: by its SHA-256, else by its MD5."""
    if there is None or there["Size"] != len(body):
        return None
    etag = str(there["ETag"])
    if "ChecksumSHA256" in there:
        return etag if there["ChecksumSHA256"] == _base64(sha256) else None
    md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
    return etag if etag.strip('"') == md5 else None


def _checksum(digests: Sequence[bytes]) -> str:
    """The checksum that S3 gives a whole object: for several parts a composite with their number."""
    whole = _base64(bytes.fromhex(combine(digests)))
    return whole if len(digests) == 1 else f"{whole}-{len(digests)}"


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


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
