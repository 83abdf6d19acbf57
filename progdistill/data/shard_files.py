"""A split's shards, open for reading, each verified against its digest before it is used."""

import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from progdistill.artifacts.digest import digest_of_descriptor, worker_threads
from progdistill.artifacts.local_store import LocalStore
from progdistill.artifacts.store import Store
from progdistill.data.shard_cache import damage, default_shard_cache
from progdistill.data.shard_format import ShardEntry, read_labels
from progdistill.errors import LostInvariantError

OPEN_SHARDS: Final = 128
"""Shards kept open, the least recently used closed first. Descriptors only: no memory is held for them."""

REMOTE_THREADS: Final = 8
"""Shards fetched at a time from a remote store, where waiting for replies takes longer than anything else."""


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
        self._cache = None if isinstance(store, LocalStore) else default_shard_cache()
        threads = worker_threads() if self._cache is None else REMOTE_THREADS
        self._pool = ThreadPoolExecutor(threads, "shards")

    def expect(self, shards: Iterable[int]) -> None:
        """Begin to open shards that will be asked for soon."""
        for shard in shards:
            if shard not in self._opening:
                self._opening[shard] = self._pool.submit(self._open_verified, shard)
            self._opening.move_to_end(shard)
            if len(self._opening) > OPEN_SHARDS:
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
        where = f"{self._store.uri}/{entry.file}"
        try:
            if self._cache is not None:
                descriptor = self._cache.open(entry.digest, lambda: self._store.read(entry.file), where)
            else:
                descriptor = self._open_local(Path(where), shard)
        except LostInvariantError as error:
            raise LostInvariantError(f"{error}; {_REMEDY}") from error
        return OpenShard(descriptor, read_labels(descriptor, entry.layout, 0, entry.rows))

    def _open_local(self, path: Path, shard: int) -> int:
        """Open a shard of a local dataset, which is verified the first time."""
        expected = self._entries[shard].digest
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise LostInvariantError(f"{path} is missing") from error
        if shard not in self._verified:
            found = digest_of_descriptor(descriptor)
            if found != expected:
                os.close(descriptor)
                raise LostInvariantError(damage(str(path), found, expected))
            self._verified.add(shard)
        return descriptor

    @staticmethod
    def _close(opening: "Future[OpenShard]") -> None:
        if not opening.cancel() and opening.exception() is None:
            os.close(opening.result().descriptor)


_REMEDY: Final = "restore it from a copy, or remove the dataset and prepare it again"
