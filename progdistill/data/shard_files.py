"""A split's shards, open for reading: each is verified against its digest when it is opened."""

import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from progdistill.artifacts.digest import digest_of_descriptor, worker_threads
from progdistill.artifacts.local_store import LocalStore
from progdistill.artifacts.store import Store
from progdistill.data.shard_format import ShardEntry, read_labels
from progdistill.errors import LostInvariantError

OPEN_SHARDS: Final = 128
"""Shards kept open, the least recently used closed first. Descriptors only: no memory is held for them."""


class OpenShard(NamedTuple):
    """A verified shard: its open file, and its labels (int64 [rows])."""

    descriptor: int
    labels: NDArray[np.int64]


class ShardFiles:
    """Open shards by number; several threads open them ahead of their use by one thread."""

    def __init__(self, store: Store, entries: Sequence[ShardEntry]) -> None:
        self._store, self._entries = store, entries
        self._opening: OrderedDict[int, Future[OpenShard]] = OrderedDict()
        self._verified: set[int] = set()
        self._pool = ThreadPoolExecutor(worker_threads(), "shards")

    def expect(self, shards: Iterable[int]) -> None:
        """Begin to open shards that will be asked for soon."""
        for shard in shards:
            if shard not in self._opening:
                self._opening[shard] = self._pool.submit(self._open_verified, shard)
            self._opening.move_to_end(shard)
        while len(self._opening) > OPEN_SHARDS:
            self._close(self._opening.popitem(last=False)[1])

    def open(self, shard: int) -> OpenShard:
        """The verified shard, open until `OPEN_SHARDS` others were asked for.

        Raises LostInvariantError when the shard is damaged or missing.
        """
        self.expect([shard])
        try:
            return self._opening[shard].result()
        except BaseException:
            del self._opening[shard]
            raise

    def close(self) -> None:
        """Close every shard."""
        self._pool.shutdown(cancel_futures=True)
        for opening in self._opening.values():
            self._close(opening)
        self._opening.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_verified(self, shard: int) -> OpenShard:
        entry = self._entries[shard]
        descriptor = self._open_local(entry)
        try:
            if shard not in self._verified:
                self._verify(descriptor, entry)
                self._verified.add(shard)
            return OpenShard(descriptor, read_labels(descriptor, entry.layout, 0, entry.rows))
        except BaseException:
            os.close(descriptor)
            raise

    def _open_local(self, entry: ShardEntry) -> int:
        assert isinstance(self._store, LocalStore)
        try:
            return os.open(self._store.root / entry.file, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise LostInvariantError(f"{self._store.uri}/{entry.file} is missing: {_REMEDY}") from error

    def _verify(self, descriptor: int, entry: ShardEntry) -> None:
        found = digest_of_descriptor(descriptor)
        if found != entry.digest:
            raise LostInvariantError(
                f"{self._store.uri}/{entry.file} is damaged: {found.size_bytes:,} bytes with SHA-256"
                f" {found.sha256}, expected {entry.size_bytes:,} bytes with {entry.sha256}; {_REMEDY}"
            )

    @staticmethod
    def _close(opening: "Future[OpenShard]") -> None:
        if not opening.cancel() and opening.exception() is None:
            os.close(opening.result().descriptor)


_REMEDY: Final = "restore it from a copy, or remove the dataset's folder and prepare it again"
