"""Garbage collection: what nothing refers to any more, and nobody is just about to refer to."""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from progdistill.artifacts import aliases, checkpoint, runs
from progdistill.artifacts.snapshot_format import job_folder
from progdistill.artifacts.store import Store, StoredObject

DEFAULT_GRACE: Final = timedelta(days=7)

DEFAULT_PATIENCE: Final = timedelta(days=30)
"""How long an unfinished job may rest before its snapshots are garbage."""

_NEIGHBOURS: Final = "evaluation_neighbours/"
"""Records under the digest of a picture, of which they tell more."""

_SHARDS: Final = "evaluation_shards/"
"""Finished parts of unfinished measurements: old ones are of measurements that nobody goes on with."""

_DESCRIBING: Final = ("evaluations/", "jobs/", checkpoint.FOLDER)

_COLLECTED: Final = (_SHARDS, _NEIGHBOURS, *_DESCRIBING, "blobs/")
"""Where garbage can be, in the order of removal: what refers goes before what it refers to."""

_RESULT: Final = re.compile(r"jobs/[^/]+/result\.json")

_DIGEST: Final = re.compile(rb"\b[0-9a-f]{64}\b")


class Garbage(NamedTuple):
    """What a collection would remove, in an order that leaves no dangling reference if it is interrupted."""

    objects: list[StoredObject]
    before: datetime
    """Everything in it is older than this, by the store's clock."""

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
    """Return what no alias, run, running job or surviving checkpoint needs and what is older than `grace`.

    The entries of `forget_runs` (`Flow/run id`) are garbage themselves, whatever their age; so is what an
    unfinished job left to go on from, when its newest snapshot is older than `patience`. Ages are
    differences on the store's own clock: a machine whose clock is wrong collects the same. A `grace` shorter
    than the longest upload endangers what is being published meanwhile.
    """
    forgotten = {f"{folder}{run}/" for run in forget_runs for folder in (runs.FOLDER, runs.REPORTS_FOLDER)}
    now = store.now()
    references = _References(store, forgotten, now - grace, now - max(grace, patience))
    obsolete = [item for item in references.objects.values() if references.is_obsolete(item.key)]
    return Garbage(obsolete + references.unneeded(), references.before)


def remove_garbage(store: Store, garbage: Garbage) -> int:
    """Remove what was found and what interrupted work left behind; return how many objects went.

    An object that was published again since it was found stays.
    """
    removed = 0
    for item in garbage.objects:
        now_there = next(store.list(item.key), None)
        if now_there is not None and now_there.modified_at == item.modified_at:
            store.delete(item.key)
            removed += 1
    return removed + store.sweep(garbage.before)


class _References:
    """Who mentions whom: a document needs every id and digest that stands anywhere in it.

    Reading documents as text keeps what kinds of record unknown here refer to, and works on damaged ones.
    """

    def __init__(
        self, store: Store, forgotten: set[str], before: datetime, abandoned_before: datetime
    ) -> None:
        self.objects = {item.key: item for item in store.list("")}
        self.before = before
        self._store, self._forgotten = store, tuple(forgotten)
        finished = {key.split("/")[1] for key in self.objects if _RESULT.fullmatch(key)}
        self._stale = tuple(
            folder
            for job in finished | self._last_touched_before(abandoned_before)
            for folder in (job_folder(job), f"live/{job}/", f"jobs/{job}/request")
        )
        self._ids = {key.split("/")[1] for key in self.objects if key.startswith(checkpoint.FOLDER)}

    def _last_touched_before(self, moment: datetime) -> set[str]:
        """Jobs whose newest snapshot, or whatever else they left to go on from, is older."""
        newest: dict[str, datetime] = {}
        for key, item in self.objects.items():
            if key.startswith(("snapshots/", "live/")):
                job = key.split("/")[1]
                newest[job] = max(newest.get(job, item.modified_at), item.modified_at)
        return {job for job, touched in newest.items() if touched < moment}

    def is_obsolete(self, key: str) -> bool:
        """Whether the key is of a run to be forgotten, or of a finished or abandoned job and no result."""
        return key.startswith((*self._forgotten, *self._stale))

    def unneeded(self) -> list[StoredObject]:
        """Old objects in the collected folders that no root leads to."""
        needed = self._needed_by_roots()
        kept = self._with_parents(needed & self._ids)
        needed |= kept
        survivors = set()
        for key in self._documents(*_DESCRIBING):
            if self._is_young(key) or self._survives(key, kept):
                survivors.add(key)
                needed |= self._mentioned_in(key)
        for key in self._documents(_NEIGHBOURS, _SHARDS):
            if self._is_young(key) or (key.startswith(_NEIGHBOURS) and key.split("/")[1] in needed):
                survivors.add(key)
                needed |= self._mentioned_in(key)
        doomed = [
            item
            for key, item in self.objects.items()
            if key.startswith(_COLLECTED) and key not in survivors and not self._is_young(key)
            if not (key.startswith("blobs/") and key.rpartition("/")[2] in needed)
        ]
        return sorted(doomed, key=lambda item: (self._rank(item.key), -item.modified_at.timestamp()))

    def _needed_by_roots(self) -> set[str]:
        needed = {alias.checkpoint_id or "" for alias in aliases.list_aliases(self._store)}
        for key in self._documents(""):
            if not key.startswith((*_COLLECTED, aliases.FOLDER)) and not self.is_obsolete(key):
                needed |= self._mentioned_in(key)
        young = {one for one in self._ids if self._is_young(checkpoint.manifest_key(one))}
        return needed | young

    def _with_parents(self, ids: set[str]) -> set[str]:
        kept: set[str] = set()
        while ids:
            kept |= ids
            mentioned = [self._mentioned_in(checkpoint.manifest_key(one)) for one in ids]
            ids = set().union(*mentioned) & self._ids - kept
        return kept

    def _survives(self, key: str, kept: set[str]) -> bool:
        """A checkpoint's documents live as long as it does, a job's result as long as all it mentions."""
        if key.startswith("jobs/"):
            return self._mentioned_in(key) & self._ids <= kept
        return key.split("/")[1] in kept

    def _is_young(self, key: str) -> bool:
        return key in self.objects and self.objects[key].modified_at >= self.before

    def _documents(self, *folders: str) -> list[str]:
        return [key for key in self.objects if key.startswith(folders) and key.endswith(".json")]

    def _mentioned_in(self, key: str) -> set[str]:
        return {digest.decode() for digest in _DIGEST.findall(self._store.read(key) or b"")}

    @staticmethod
    def _rank(key: str) -> int:
        return next(rank for rank, folder in enumerate(_COLLECTED) if key.startswith(folder))
