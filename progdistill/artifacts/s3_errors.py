"""What an S3 server's or connection's failure means to the user."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
)

from progdistill.errors import ProgdistillError, TransientError, UsageError

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
