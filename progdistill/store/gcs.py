"""A store in a bucket of Google Cloud Storage, or of the emulator that `STORAGE_EMULATOR_HOST` names."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import requests
from google.api_core.exceptions import GoogleAPICallError, NotFound, PreconditionFailed, RetryError, TooManyRequests
from google.auth.exceptions import GoogleAuthError, TransportError
from google.cloud import storage
from google.cloud.exceptions import ClientError
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY

from progdistill.errors import LostInvariantError, TransientError, UsageError
from progdistill.store.base import StoredObject, Versioned, checked_key, is_key
from progdistill.store.bucket import CONFLICT_ATTEMPTS, REUSE_PERIOD, Bucket
from progdistill.store.cache import Fetch
from progdistill.store.digest import FileDigest, HashingWriter, digest_of_file
from progdistill.store.failpoints import failpoint
from progdistill.store.files import sweep_folder
from progdistill.store.layout import probe_key
from progdistill.store.proof import prove

_HINTS: Final = {
    401: "renew the credentials: gcloud auth application-default login",
    403: "the credentials need the role storage.objectUser on the bucket",
    404: "create the bucket or fix the --store URI",
}


class GcsStore(Bucket):
    """A `Store` of the objects under a prefix of a bucket.

    Credentials are Google's application default ones. Generation preconditions decide every race; the server verifies
    the CRC32C of every upload.
    """

    def __init__(self, uri: str) -> None:
        """Open `gs://bucket/prefix`; UsageError for another form, or without credentials."""
        super().__init__(uri)
        with self._explained("open"):
            self._bucket = storage.Client().bucket(self._bucket_name)
        self._retry = DEFAULT_RETRY.with_timeout(120)

    def read_versioned(self, key: str) -> Versioned | None:
        """The version is the generation."""
        blob = self._blob(key)
        with self._explained(f"read {key}"):
            try:
                data = blob.download_as_bytes(retry=self._retry)
            except NotFound:
                return None
        return Versioned(data, str(blob.generation))

    def write(self, key: str, data: bytes) -> None:
        with self._explained(f"write {key}"):
            self._put(self._blob(key), data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._put_on_condition(key, data, 0)

    def compare_and_swap(self, key: str, data: bytes, version: str) -> bool:
        return self._put_on_condition(key, data, int(version))

    def list(self, prefix: str) -> Iterator[StoredObject]:
        with self._explained(f"list {prefix or 'objects'}"):
            for blob in self._bucket.list_blobs(prefix=self._start + prefix, retry=self._retry):
                key = blob.name.removeprefix(self._start)
                if is_key(key):
                    yield StoredObject(key, blob.size, blob.updated)

    def delete(self, key: str) -> None:
        with self._explained(f"remove {key}"), suppress(NotFound):
            self._blob(key).delete(retry=self._retry)

    def upload(self, path: Path, key_for: Callable[[str], str], *, consume: bool = False) -> FileDigest:
        """The file is read for its name, to send it, and once more: it may have changed meanwhile."""
        digest = digest_of_file(path)
        blob = self._blob(key_for(digest.sha256))
        with self._explained(f"store {path.name}"):
            if not self._is_stored(blob, digest):
                blob.metadata = {"sha256": digest.sha256}
                blob.upload_from_filename(str(path), checksum="crc32c", retry=self._retry)
                if digest_of_file(path) != digest:
                    blob.delete(if_generation_match=blob.generation, retry=self._retry)
                    raise LostInvariantError(f"{path} changed while it was uploaded; try again")
        if consume:
            path.unlink()
        return digest

    def check_writable(self) -> None:
        prove(self)

    def sweep(self, before: datetime) -> int:
        """Unfinished uploads are no objects; the server drops them after a week."""
        return sweep_folder(self.scratch(), before)

    def now(self) -> datetime:
        """The time at which an object was written just now."""
        blob = self._blob(probe_key(uuid.uuid4().hex))
        with self._explained("read the clock"):
            self._put(blob, b"")
            blob.delete(retry=self._retry)
        updated: datetime = blob.updated
        return updated

    def _blob(self, key: str) -> Any:
        return self._bucket.blob(self._start + checked_key(key))

    def _put(self, blob: Any, data: bytes, **condition: int) -> None:
        blob.upload_from_string(
            data, content_type="application/octet-stream", checksum="crc32c", retry=self._retry, **condition
        )
        failpoint("object.put")

    def _put_on_condition(self, key: str, data: bytes, generation: int) -> bool:
        """Put if the object has this generation; 0: if there is none.

        A request whose reply was lost is sent again and then fails against itself: the object's metadata tell whose
        write it is. If nothing is there, it is just being removed: put again.
        """
        blob, ours = self._blob(key), uuid.uuid4().hex
        with self._explained(f"write {key}"):
            for _ in range(CONFLICT_ATTEMPTS):
                blob.metadata = {"write": ours}
                try:
                    self._put(blob, data, if_generation_match=generation)
                    return True
                except PreconditionFailed:
                    found = self._bucket.get_blob(blob.name, retry=self._retry)
                except NotFound:  # the emulator's answer where an object of some generation is gone
                    if generation == 0:
                        raise
                    found = None
                if found is not None or generation != 0:
                    return found is not None and (found.metadata or {}).get("write") == ours
        raise TransientError(f"{self.uri}/{key} is written and removed by others at the same time; try again")

    def _is_stored(self, blob: Any, digest: FileDigest) -> bool:
        """Whether these bytes were stored a short time ago."""
        found = self._bucket.get_blob(blob.name, retry=self._retry)
        if found is None or found.size != digest.size_bytes or (found.metadata or {}).get("sha256") != digest.sha256:
            return False
        return bool(self.now() - found.updated < REUSE_PERIOD)

    def _fetch(self, key: str) -> Fetch:
        def fetch(writer: HashingWriter) -> None:
            with self._explained(f"read {key}"):
                try:
                    self._blob(key).download_to_file(writer, checksum=None, retry=self._retry)
                except NotFound as error:
                    raise LostInvariantError(f"{self.uri}/{key} is missing from the store") from error

        return fetch

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        """Turn Google's errors into ours, with what the user can do about them."""
        cause = f"cannot {action} in store {self.uri}"
        try:
            yield
        except (TooManyRequests, RetryError, TransportError, DataCorruption, requests.RequestException) as error:
            raise TransientError(f"{cause}: {error}; try again") from error
        except GoogleAuthError as error:
            hint = "gcloud auth application-default login, or Workload Identity in a pod (docs/tpu.md)"
            raise UsageError(f"{cause}: {error}. Credentials come from {hint}") from error
        except ClientError as error:
            hint = _HINTS.get(error.code, "check the --store URI and the bucket's settings")
            raise UsageError(f"{cause}: {error.message}; {hint}") from error
        except GoogleAPICallError as error:
            raise TransientError(f"{cause}: {error}; try again") from error
