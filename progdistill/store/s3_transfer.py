"""Transfers to and from S3 by boto3, and what its errors mean."""

import base64
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError, PartialCredentialsError
from botocore.parsers import ResponseParserError
from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError

from progdistill.errors import LostInvariantError, ProgdistillError, TransientError, UsageError
from progdistill.store.bucket import REUSE_PERIOD
from progdistill.store.digest import PART_BYTES, FileDigest, HashingWriter, parts_of
from progdistill.store.failpoints import failpoint

Place = dict[str, str]
"""The arguments that name an object in every call: `Bucket` and `Key`."""

ABSENT: Final = {"404", "NoSuchKey", "NotFound"}
CONFLICT: Final = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}

ATTEMPTS: Final = 6
"""Attempts to read an object, or a part of one, over connections that break."""

DAMAGE_ATTEMPTS: Final = 4

TRANSFERS: Final = 8
"""Parts in flight."""

_CONFIG: Final = TransferConfig(
    multipart_threshold=PART_BYTES + 1,
    multipart_chunksize=PART_BYTES,  # The server's composite checksum is then our digest.
    max_concurrency=TRANSFERS,
    num_download_attempts=ATTEMPTS,
    preferred_transfer_client="classic",
)

_FAILPOINTS: Final = {
    "after-call.s3.CreateMultipartUpload": "upload.created",
    "after-call.s3.UploadPart": "upload.part",
    "before-call.s3.CompleteMultipartUpload": "upload.parts",
}

_DAMAGED: Final = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch"}

_HINTS: Final = {
    "NoSuchBucket": "create the bucket or fix the --store URI",
    "AccessDenied": "the credentials lack permission for this bucket and prefix",
    "InvalidAccessKeyId": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile",
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID",
    "ExpiredToken": "renew the credentials and run the same command again",
    "InvalidToken": "renew the credentials and run the same command again",
    "RequestTimeTooSkewed": "this machine's clock is off by more than 15 minutes: set it (NTP)",
    "PermanentRedirect": "set AWS_REGION to the bucket's region, or AWS_ENDPOINT_URL_S3 to the address of its server",
    "AuthorizationHeaderMalformed": "set AWS_REGION to the bucket's region",
    "NotImplemented": "the server lacks what a store needs (docs/artifacts.md): choose another --store",
    "QuotaExceeded": "free some space (`progdistill checkpoints gc`) or choose another --store",
    "InsufficientStorage": "free some space (`progdistill checkpoints gc`) or choose another --store",
}


def code_of(error: ClientError) -> str:
    """The server's name for the error, or the HTTP status as text."""
    return str(error.response.get("Error", {}).get("Code", ""))


def retry_if_damaged(call: Callable[[], Any]) -> Any:
    """Call, and call again when the server's checksum differs from that of what was sent."""
    for _ in range(DAMAGE_ATTEMPTS - 1):
        try:
            return call()
        except ClientError as error:
            if code_of(error) not in _DAMAGED:
                raise
    return call()


@contextmanager
def explained(uri: str, action: str) -> Iterator[None]:
    """Turn boto3's errors into ours, with what the user can do about them."""
    cause = f"cannot {action} in store {uri}"
    try:
        yield
    except (ClientError, BotoCoreError, RetriesExceededError, S3DownloadFailedError) as error:
        raise _translated(error, cause) from error
    except (ResponseParserError, KeyError) as error:
        raise UsageError(
            f"{cause}: the server does not answer as S3 does ({type(error).__name__}: {error!s:.200}); check"
            " AWS_ENDPOINT_URL_S3, and that no proxy or sign-in page is in between"
        ) from error


def refuse_redirects(client: Any) -> None:
    """Let a redirect without a region end in a UsageError; botocore asks again and again for the region."""

    def refuse(response: Any = None, **_: object) -> None:
        if response is None or response[0].status_code not in (301, 302, 303, 307, 308):
            return
        headers = response[1].get("ResponseMetadata", {}).get("HTTPHeaders", {})
        if "x-amz-bucket-region" not in headers and "Region" not in response[1].get("Error", {}):
            server, location = client.meta.endpoint_url, headers.get("location", "another address")
            raise UsageError(
                f"the server at {without_password(server)} redirects to {without_password(location)}: set"
                " AWS_ENDPOINT_URL_S3 to the address of the server itself (https:// where it redirects there), or"
                " AWS_REGION to the bucket's region"
            )

    client.meta.events.register_first("needs-retry.s3", refuse)


def without_password(text: str) -> str:
    """A message with URLs, without the user and password in them."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


def _translated(error: Exception, cause: str) -> ProgdistillError:
    """Botocore has already retried throttling, server errors and broken connections with backoff."""
    if isinstance(error, NoCredentialsError | PartialCredentialsError | NoRegionError):
        return UsageError(f"{cause}: {error}; set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION")
    if isinstance(error, RetriesExceededError):
        return TransientError(f"{cause}: the connection broke {ATTEMPTS} times; try again")
    if not isinstance(error, ClientError):
        return TransientError(f"{cause}: {without_password(str(error))}")
    code = code_of(error)
    message = error.response.get("Error", {}).get("Message", code)
    if hint := _HINTS.get(code):
        return UsageError(f"{cause}: {message} ({code}); {hint}")
    if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (401, 403):
        return UsageError(f"{cause}: {message} ({code}); check the credentials and the bucket's policy")
    return TransientError(f"{cause}: {message} ({code})")


def register_failpoints(client: Any) -> None:
    """Let a client's transfers pass the failpoints of uploads."""
    for event, name in _FAILPOINTS.items():
        client.meta.events.register(event, lambda name=name, **_: failpoint(name))


def upload_file(client: Any, place: Place, path: Path, digest: FileDigest) -> None:
    """Upload a file in parallel parts; the server verifies each by its SHA-256.

    Raises:
        LostInvariantError: The file changed since its digest was computed.
    """
    if _is_stored(client, place, digest, within=REUSE_PERIOD):
        return

    def send() -> None:
        with create_transfer_manager(client, _CONFIG) as manager:
            manager.upload(str(path), place["Bucket"], place["Key"], {"ChecksumAlgorithm": "SHA256"}).result()

    retry_if_damaged(send)
    failpoint("upload.completed")
    if not _is_stored(client, place, digest):
        raise LostInvariantError(f"{path} changed while it was uploaded; try again")


def _is_stored(client: Any, place: Place, digest: FileDigest, within: timedelta | None = None) -> bool:
    """Whether the object is there with the checksum of the digest, stored within that time."""
    try:
        found = client.head_object(**place, ChecksumMode="ENABLED")
    except ClientError as error:
        if code_of(error) in ABSENT:
            return False
        raise
    parts = len(parts_of(digest.size_bytes))
    checksum = base64.b64encode(bytes.fromhex(digest.sha256)).decode() + (f"-{parts}" if parts > 1 else "")
    if (found.get("ChecksumSHA256"), found["ContentLength"]) != (checksum, digest.size_bytes):
        return False
    now = parsedate_to_datetime(found["ResponseMetadata"]["HTTPHeaders"]["date"])
    return within is None or bool(now - found["LastModified"] < within)


def download_file(client: Any, place: Place, writer: HashingWriter) -> None:
    """Download an object in parallel parts.

    Raises:
        LostInvariantError: There is no such object.
    """
    try:
        with create_transfer_manager(client, _CONFIG) as manager:
            manager.download(place["Bucket"], place["Key"], writer).result()
    except ClientError as error:
        if code_of(error) in ABSENT:
            raise LostInvariantError(f"s3://{place['Bucket']}/{place['Key']} is missing from the store") from error
        raise


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
