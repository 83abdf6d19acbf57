"""A store in an S3 bucket, on AWS or any compatible server that `AWS_ENDPOINT_URL_S3` names."""

import base64
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.loaders import Loader, create_loader

from progdistill.errors import TransientError, UsageError
from progdistill.store.base import StoredObject, Versioned, checked_key, is_key
from progdistill.store.bucket import CONFLICT_ATTEMPTS, Bucket
from progdistill.store.cache import Fetch
from progdistill.store.digest import FileDigest, HashingWriter, digest_of_file
from progdistill.store.failpoints import failpoint
from progdistill.store.files import sweep_folder
from progdistill.store.layout import probe_key
from progdistill.store.proof import ADVICE, prove
from progdistill.store.s3_transfer import (
    ABSENT,
    ATTEMPTS,
    CONFLICT,
    TRANSFERS,
    Place,
    abort_uploads,
    code_of,
    download_file,
    explained,
    refuse_redirects,
    register_failpoints,
    retry_if_damaged,
    upload_file,
)


class S3Store(Bucket):
    """A `Store` of the objects under a prefix of a bucket.

    Credentials, region and endpoint come from the usual AWS settings. Conditional requests (`If-None-Match`,
    `If-Match`) decide every race; the server verifies every checksum.
    """

    def __init__(self, uri: str) -> None:
        """Open `s3://bucket/prefix`; UsageError for another form or settings that botocore refuses."""
        super().__init__(uri)
        settings = Config(
            retries={"mode": "standard", "total_max_attempts": _most_attempts()},
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=TRANSFERS + 2,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        session = botocore.session.get_session()
        session.register_component("data_loader", _service_descriptions())
        try:
            self._client = session.create_client("s3", config=settings)
        except (BotoCoreError, ValueError) as error:
            raise UsageError(f"store {uri}: {error}") from error
        register_failpoints(self._client)
        refuse_redirects(self._client)

    def read_versioned(self, key: str) -> Versioned | None:
        """The version is the ETag. A reply that breaks off is requested again."""
        with explained(self.uri, f"read {key}"):
            attempts = 0
            while True:
                attempts += 1
                try:
                    reply = self._client.get_object(**self._place(key))
                    return Versioned(reply["Body"].read(), reply["ETag"])
                except ClientError as error:
                    if code_of(error) in ABSENT:
                        return None
                    raise
                except (HTTPClientError, IncompleteReadError):
                    if attempts == ATTEMPTS:
                        raise

    def write(self, key: str, data: bytes) -> None:
        with explained(self.uri, f"write {key}"):
            self._put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._put_on_condition(key, data, IfNoneMatch="*")

    def compare_and_swap(self, key: str, data: bytes, version: str) -> bool:
        return self._put_on_condition(key, data, IfMatch=version)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        start = self._start
        paginator = self._client.get_paginator("list_objects_v2")
        pages = paginator.paginate(Bucket=self._bucket_name, Prefix=start + prefix)
        with explained(self.uri, f"list {prefix or 'objects'}"):
            for page in pages:
                for item in page.get("Contents", []):
                    key = item["Key"].removeprefix(start)
                    if is_key(key):
                        yield StoredObject(key, item["Size"], item["LastModified"])

    def delete(self, key: str) -> None:
        with explained(self.uri, f"remove {key}"):
            self._client.delete_object(**self._place(key))

    def upload(self, path: Path, key_for: Callable[[str], str], *, consume: bool = False) -> FileDigest:
        """The file is read once for its name, then again part by part."""
        digest = digest_of_file(path)
        with explained(self.uri, f"store {path.name}"):
            upload_file(self._client, self._place(key_for(digest.sha256)), path, digest)
        if consume:
            path.unlink()
        return digest

    def check_writable(self) -> None:
        prove(self)
        self._prove_checksums()

    def sweep(self, before: datetime) -> int:
        """Aborts multipart uploads, for which S3 charges until then."""
        with explained(self.uri, "remove unfinished uploads"):
            aborted = abort_uploads(self._client, self._bucket_name, self._start, before)
        return aborted + sweep_folder(self.scratch(), before)

    def now(self) -> datetime:
        """The date of a reply."""
        with explained(self.uri, "read the clock"):
            reply = self._client.list_objects_v2(Bucket=self._bucket_name, Prefix=self._start, MaxKeys=1)
        return parsedate_to_datetime(reply["ResponseMetadata"]["HTTPHeaders"]["date"])

    def _prove_checksums(self) -> None:
        """Raise UsageError unless the server refuses bytes of another SHA-256, and keeps that of those it has."""
        key, data = probe_key(uuid.uuid4().hex), b"probe"
        right, wrong = (base64.b64encode(hashlib.sha256(d).digest()).decode() for d in (data, b"other"))
        with explained(self.uri, "prove the checksums of"):
            try:
                self._client.put_object(**self._place(key), Body=data, ChecksumSHA256=right)
                kept = self._client.head_object(**self._place(key), ChecksumMode="ENABLED").get("ChecksumSHA256")
                with suppress(ClientError):
                    self._client.put_object(**self._place(key), Body=data, ChecksumSHA256=wrong)
                    kept = None
            finally:
                self._client.delete_object(**self._place(key))
        if kept != right:
            raise UsageError(f"{self.uri} lacks SHA-256 checksums, by which the server verifies uploads: {ADVICE}")

    def _fetch(self, key: str) -> Fetch:
        def fetch(writer: HashingWriter) -> None:
            with explained(self.uri, f"read {key}"):
                download_file(self._client, self._place(key), writer)

        return fetch

    def _place(self, key: str) -> Place:
        return {"Bucket": self._bucket_name, "Key": self._start + checked_key(key)}

    def _put(self, key: str, data: bytes, **condition: str) -> None:
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
        facts = {**self._place(key), "ChecksumSHA256": checksum, **condition}
        retry_if_damaged(lambda: self._client.put_object(**facts, Body=data))
        failpoint("object.put")

    def _put_on_condition(self, key: str, data: bytes, **condition: str) -> bool:
        """Put if the condition holds.

        A request whose reply was lost is sent again and then fails against itself: after such a retry, whose
        bytes are there is what counts. If nothing is there, it is just being removed: put again.
        """
        with explained(self.uri, f"write {key}"):
            for _ in range(CONFLICT_ATTEMPTS):
                try:
                    self._put(key, data, **condition)
                    return True
                except ClientError as error:
                    if code_of(error) not in CONFLICT | ABSENT:
                        raise
                    resent = bool(error.response["ResponseMetadata"].get("RetryAttempts"))
                there = self.read(key)
                if there is not None or "IfMatch" in condition:
                    return resent and there == data
        raise TransientError(f"{self.uri}/{key} is written and removed by others at the same time; try again")


@cache
def _service_descriptions() -> Loader:
    """botocore's files about S3, read once a process: it takes 0.2 s of each client that reads them for itself."""
    return create_loader(os.environ.get("AWS_DATA_PATH"))


def _most_attempts() -> int:
    """How often botocore tries a request."""
    text = os.environ.get("AWS_MAX_ATTEMPTS", "8")
    if not (text.isdecimal() and int(text) > 0):
        raise UsageError(f"AWS_MAX_ATTEMPTS is {text!r}: give a whole number from 1, such as 8")
    return int(text)
