"""Uploads to S3: parts in parallel with their SHA-256, going on where an interrupted upload stopped."""

import base64
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from botocore.exceptions import ClientError

from progdistill.artifacts.digest import PART_BYTES, combine
from progdistill.artifacts.faults import reach
from progdistill.artifacts.s3_errors import ABSENT, code_of, resent_if_damaged

TRANSFERS: Final = 8
"""Parts in flight: bounds memory to 8 × 16 MiB."""

YOUNG: Final = timedelta(days=1)
"""An object younger than this need not be stored again: garbage collection spares it."""


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
            reach("upload.completed")
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
    return bool(intact and now - found["LastModified"] < YOUNG)


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
    reach("upload.parts")
    target.client.complete_multipart_upload(
        **target.place,
        UploadId=upload_id,
        MultipartUpload={"Parts": sent},
        ChecksumSHA256=_checksum(digests),
        ChecksumType="COMPOSITE",
    )
    reach("upload.completed")


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
            reach("upload.part")
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
    reach("upload.created")
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
