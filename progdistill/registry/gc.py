"""Garbage collection and verification of a store, by the kinds of object that its layout declares."""

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from itertools import groupby
from typing import Final, NamedTuple

from progdistill.errors import LostInvariantError, ProgdistillError, UsageError
from progdistill.store.base import Store, StoredObject
from progdistill.store.digest import FileDigest
from progdistill.store.documents import Record, declared_references, decode, read_in_order, unseal
from progdistill.store.layout import BLOBS, KINDS, Kind, Lifetime, blob_key, job_result_key, kind_of

DEFAULT_GRACE: Final = timedelta(days=7)

DEFAULT_PATIENCE: Final = timedelta(days=30)
"""An unfinished job whose snapshots and request are all older counts as abandoned."""

_DIGEST: Final = re.compile(r"\b[0-9a-f]{64}\b", re.ASCII)

References = dict[StoredObject, frozenset[str]]


class Garbage(NamedTuple):
    """What a collection would remove, in an order that leaves no dangling reference if it is interrupted."""

    objects: list[StoredObject]
    before: datetime
    """Everything in it is older than this, by the store's clock."""
    rescan: Callable[[], "Garbage"]
    """Scans the store again: without what has been referred to since."""

    @property
    def size_bytes(self) -> int:
        """Bytes that removing it frees."""
        return sum(item.size_bytes for item in self.objects)


def find_garbage(
    store: Store,
    *,
    grace: timedelta = DEFAULT_GRACE,
    patience: timedelta = DEFAULT_PATIENCE,
    forget_runs: Iterable[str] = (),
) -> Garbage:
    """Find what no alias, run, unfinished job or surviving checkpoint needs.

    Ages are differences on the store's own clock: a machine whose clock is wrong collects the same.

    Args:
        store: The store to scan. Nothing is removed.
        grace: Newer objects stay, with all they refer to. Shorter than the longest upload, it endangers what
            is being published meanwhile; see `require_safe_grace`.
        patience: An unfinished job whose newest snapshot or request is older counts as abandoned.
        forget_runs: Runs (`Flow/run id`) whose checkpoint entries and reports are garbage at any age.
    """
    now = store.now()
    references: References = {}

    def scan() -> Garbage:
        found = _Scan(store, tuple(forget_runs), now - grace, now - max(grace, patience), references)
        return Garbage(found.garbage(), found.before, scan)

    return scan()


def require_safe_grace(store: Store, grace: timedelta) -> None:
    """Raise UsageError for a grace period in which uploads to this store rely on objects to stay."""
    if grace < store.reuse_period:
        raise UsageError(
            f"--grace-days {grace / timedelta(days=1):g} with --delete: give"
            f" {store.reuse_period / timedelta(days=1):g} or more for store {store.uri}, where newer files"
            " are not uploaded again"
        )


def remove_garbage(store: Store, garbage: Garbage) -> int:
    """Remove garbage and what interrupted writers left behind; return how many objects were removed.

    An object that was published again since the scan stays, and so does what has been referred to since: the
    store is scanned again before each kind of object.
    """
    removed = 0
    for _, items in groupby(garbage.objects, key=lambda item: _rank(kind_of(item.key))):
        still = set(garbage.rescan().objects)
        for item in items:
            if item in still and next(store.list(item.key), None) == item:
                store.delete(item.key)
                removed += 1
    return removed + store.sweep(garbage.before)


class _Scan:
    """One look at all objects of a store, and at what their documents refer to."""

    def __init__(
        self,
        store: Store,
        forgotten: tuple[str, ...],
        before: datetime,
        abandoned_before: datetime,
        references: References,
    ) -> None:
        """`references` holds what was read by earlier scans, and is added to."""
        self.before = before
        self._store, self._references = store, references
        self._objects = {item.key: item for item in store.list("")}
        self._kinds = {key: kind_of(key) for key in self._objects}
        self._forgotten = tuple(f"{run}/" for run in forgotten)
        self._ended_jobs = self._find_ended_jobs(abandoned_before)
        self._by_digest: dict[str, list[str]] = {}
        for key in self._with_lifetime(Lifetime.REFERENCE):
            for digest in _DIGEST.findall(key):
                self._by_digest.setdefault(digest, []).append(key)

    def garbage(self) -> list[StoredObject]:
        """Everything that is not needed, in order of removal; of one kind the newest first."""
        needed = self._needed()
        garbage = [self._objects[key] for key, kind in self._kinds.items() if kind and key not in needed]
        return sorted(garbage, key=lambda item: (_rank(self._kinds[item.key]), -item.modified_at.timestamp()))

    def _needed(self) -> set[str]:
        needed: set[str] = set()
        pending = [key for key, kind in self._kinds.items() if self._is_root(key, kind)]
        dependent = self._with_lifetime(Lifetime.OWNER, Lifetime.RESULT)
        while pending:
            while pending:
                keys = {key for key in pending if key in self._objects} - needed
                needed |= keys
                pending = [key for read in read_in_order(self._store, self._references_of, keys) for key in read()]
            dependent = [key for key in dependent if key not in needed]
            pending = [key for key in dependent if self._dependencies(key) <= needed]
        return needed

    def _is_root(self, key: str, kind: Kind | None) -> bool:
        """Whether an object stays whatever refers to it."""
        if kind is None or kind.lifetime is Lifetime.PERMANENT:
            return True
        if kind.lifetime is Lifetime.RUN:
            return not key.partition("/")[2].startswith(self._forgotten)
        if kind.lifetime is Lifetime.JOB:
            return key.split("/")[1] not in self._ended_jobs
        return self._objects[key].modified_at >= self.before

    def _find_ended_jobs(self, abandoned_before: datetime) -> set[str]:
        """Jobs that have a result, or left nothing newer to go on from."""
        newest: dict[str, datetime] = {}
        for key in self._with_lifetime(Lifetime.JOB):
            job, modified_at = key.split("/")[1], self._objects[key].modified_at
            newest[job] = max(newest.get(job, modified_at), modified_at)
        return {
            job
            for job, modified_at in newest.items()
            if modified_at < abandoned_before or job_result_key(job) in self._objects
        }

    def _dependencies(self, key: str) -> set[str]:
        """What must stay for a dependent object to stay: its owner; or what a job's result made or measured.

        A result whose checkpoint is gone would keep its job from being run again.
        """
        owner = self._owner_key(key)
        if owner is not None:
            return {owner}
        return {needed for needed in self._references_of(key) if not needed.startswith(BLOBS)}

    def _owner_key(self, key: str) -> str | None:
        kind = self._kinds[key]
        return kind.owner_key(key.split("/")[1]) if kind and kind.owner_key else None

    def _references_of(self, key: str) -> frozenset[str]:
        """The keys that a document declares, and its owner.

        A document that cannot be read keeps every file and checkpoint whose digest stands in its text.
        """
        item, kind = self._objects[key], self._kinds[key]
        if not key.endswith(".json") or (kind is not None and not kind.sealed):
            return frozenset()
        if item not in self._references:
            data = self._read(key)
            declared = declared_references(data)
            if declared is None:
                digests = _DIGEST.findall(data.decode(errors="replace"))
                declared = [found for digest in digests for found in self._by_digest.get(digest, [])]
            owner = self._owner_key(key)
            self._references[item] = frozenset([*declared, *([owner] if owner else [])])
        return self._references[item]

    def _read(self, key: str) -> bytes:
        try:
            return self._store.read(key) or b""
        except LostInvariantError as error:
            raise LostInvariantError(f"{error}. Nothing is collected: what {key} refers to is not known") from error

    def _with_lifetime(self, *lifetimes: Lifetime) -> list[str]:
        return [key for key, kind in self._kinds.items() if kind and kind.lifetime in lifetimes]


def _rank(kind: Kind | None) -> int:
    return KINDS.index(kind) if kind else len(KINDS)


def damaged_objects(
    store: Store,
    prefix: str = "",
    known: Iterable[str] = (),
    record_at: Callable[[str], type[Record] | None] = lambda key: None,
) -> Iterator[tuple[str, ProgdistillError]]:
    """Verify the documents and blobs of a store.

    Args:
        store: The store. Blobs are read in the store itself, past any local copy.
        prefix: What the keys to verify start with.
        known: Keys that have been verified already.
        record_at: From a key to the class that its document must be of; None: only the seal is checked.

    Yields:
        The key of each damaged object, and what is wrong with it.
    """
    for item in store.list(prefix):
        if item.key not in known:
            try:
                _verify(store, item, record_at)
            except (LostInvariantError, UsageError) as error:
                yield item.key, error


def _verify(store: Store, item: StoredObject, record_at: Callable[[str], type[Record] | None]) -> None:
    kind = kind_of(item.key)
    sha256 = item.key.rpartition("/")[2]
    if item.key == blob_key(sha256):
        store.verify(item.key, FileDigest(sha256, item.size_bytes))
    elif kind is not None and kind.sealed and item.key.endswith(".json"):
        data = store.read(item.key)
        where, record = f"{store.uri}/{item.key}", record_at(item.key)
        if data is not None and record is not None:  # None: removed since it was listed.
            decode(record, data, where=where)
        elif data is not None:
            unseal(data, where=where)
