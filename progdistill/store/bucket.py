"""What stores in buckets have in common: names under a prefix, and files in a local cache."""

from abc import ABC, abstractmethod
from datetime import timedelta
from pathlib import Path
from typing import Final

from progdistill.errors import UsageError
from progdistill.store.base import Versioned, checked_key
from progdistill.store.cache import Fetch, file_cache
from progdistill.store.digest import FileDigest

REUSE_PERIOD: Final = timedelta(days=1)
"""An object stored within this time is not uploaded again: garbage collection waits longer."""

CONFLICT_ATTEMPTS: Final = 5


class Bucket(ABC):
    """The part of a `Store` that is the same for every service; a service adds the requests."""

    folder: Final = None
    reuse_period: Final = REUSE_PERIOD

    def __init__(self, uri: str) -> None:
        """Take `scheme://bucket/prefix` apart; UsageError for another form."""
        scheme, _, place = uri.partition("://")
        self._bucket_name, _, prefix = place.rstrip("/").partition("/")
        if not self._bucket_name:
            raise UsageError(f"store {uri!r}: give it as {scheme}://bucket/prefix")
        self._start = f"{checked_key(prefix)}/" if prefix else ""  # What the names of all our objects start with.
        self.uri = f"{scheme}://{self._bucket_name}/{prefix}".rstrip("/")
        self._cache = file_cache()

    @abstractmethod
    def read_versioned(self, key: str) -> Versioned | None:
        """See `Store.read_versioned`."""

    @abstractmethod
    def _fetch(self, key: str) -> Fetch:
        """What writes the object into the cache."""

    def read(self, key: str) -> bytes | None:
        found = self.read_versioned(key)
        return None if found is None else found.data

    def download(self, key: str, expected: FileDigest) -> Path:
        """The file is in the local cache."""
        return self._cache.path(expected, self._fetch(key), f"{self.uri}/{key}")

    def verify(self, key: str, expected: FileDigest) -> None:
        self._cache.verify(expected, self._fetch(key), f"{self.uri}/{key}")

    def scratch(self) -> Path:
        return self._cache.scratch()

    def free_bytes(self) -> int | None:
        """A bucket has no limit."""
        return None
