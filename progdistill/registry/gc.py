"""Garbage collection and verification of a store."""

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from itertools import groupby
from typing import Final, NamedTuple

from progdistill.errors import LostInvariantError, ProgdistillError, UsageError
from progdistill.registry import aliases, checkpoint, runs
from progdistill.store.base import Store, StoredObject
from progdistill.store.digest import FileDigest
from progdistill.store.documents import unseal
from progdistill.training.snapshot_format import job_folder

DEFAULT_GRACE: Final = timedelta(days=7)

DEFAULT_PATIENCE: Final = timedelta(days=30)
"""How long an unfinished job may rest before its snapshots are garbage."""

_NEIGHBORS: Final = "evaluation_neighbors/"
"""Records under the digest of a picture, of which they tell more."""

_SHARDS: Final = "evaluation_shards/"
"""Finished parts of unfinished measurements: old ones are of measurements that nobody goes on with."""

_TELLING: Final = ("evaluations/", "jobs/")
"""Documents that keep what they mention while they are young: somebody is just about to go on with it."""

_DESCRIBING: Final = (*_TELLING, checkpoint.FOLDER)

_COLLECTED: Final = ("probe/", _SHARDS, _NEIGHBORS, *_DESCRIBING, "blobs/")
"""Where garbage can be, in the order of removal: what refers goes before what it refers to."""

_RESULT: Final = re.compile(r"jobs/[^/]+/result\.json")
_REQUEST: Final = re.compile(r"jobs/[^/]+/request\.json")

_DIGEST: Final = re.compile(rb"\b[0-9a-f]{64}\b")

_OUTPUT: Final = re.compile(rb"(?:\boutput|checkpoint_id)\W{1,9}([0-9a-f]{64})\b")
"""In a job's result: the checkpoint or evaluator that it made, or the checkpoints that it measured."""


class Garbage(NamedTuple):
    """What a collection would remove, in an order that leaves no dangling reference if it is interrupted."""

    objects: list[StoredObject]
    before: datetime
    """Everything in it is older than this, by the store's clock."""
    rescan: Callable[[], "Garbage"]
    """Finds garbage anew: without what is referred to by now."""

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
    than the longest upload endangers what is being published meanwhile; see `require_safe_grace`.
    """
    forgotten = {f"{folder}{run}/" for run in forget_runs for folder in (runs.FOLDER, runs.REPORTS_FOLDER)}
    now = store.now()
    mentions: dict[StoredObject, _Mentions] = {}

    def find() -> Garbage:
        references = _References(store, forgotten, now - grace, now - max(grace, patience), mentions)
        obsolete = [item for item in references.objects.values() if references.is_obsolete(item.key)]
        return Garbage(obsolete + references.unneeded(), references.before, find)

    return find()


def require_safe_grace(store: Store, grace: timedelta) -> None:
    """Raise UsageError for a grace period in which uploads to this store trust that what is there stays."""
    if not store.uri.startswith("s3://"):
        return
    from progdistill.store.s3_transfer import YOUNG

    if grace < YOUNG:
        raise UsageError(
            f"--grace-days {grace / timedelta(days=1):g} with --delete: give {YOUNG.days} or more for store"
            f" {store.uri}, where younger files are not sent again but taken for safe"
        )


def remove_garbage(store: Store, garbage: Garbage) -> int:
    """Remove what was found and what interrupted work left behind; return how many objects went.

    An object that was published again since it was found stays, and so does what is referred to by now: that
    is looked up again before each folder.
    """
    removed = 0
    for _, folder in groupby(garbage.objects, key=lambda item: item.key.partition("/")[0]):
        still = set(garbage.rescan().objects)
        for item in folder:
            if item in still and next(store.list(item.key), None) == item:
                store.delete(item.key)
                removed += 1
    return removed + store.sweep(garbage.before)


class _Mentions(NamedTuple):
    """Ids and digests that stand in a document or its key."""

    anywhere: set[str]
    as_output: set[str]

    @staticmethod
    def of(key: str, data: bytes) -> "_Mentions":
        """Find them in the document's text."""
        anywhere = _DIGEST.findall(key.encode()) + _DIGEST.findall(data)
        return _Mentions(*({one.decode() for one in found} for found in (anywhere, _OUTPUT.findall(data))))


class _References:
    """Who mentions whom: a document needs every id and digest that stands anywhere in it.

    Reading documents as text keeps what kinds of record unknown here refer to, and works on damaged ones.
    """

    def __init__(
        self,
        store: Store,
        forgotten: set[str],
        before: datetime,
        abandoned_before: datetime,
        mentions: dict[StoredObject, _Mentions],
    ) -> None:
        """`mentions` holds what was read before, and is added to."""
        self.objects = {item.key: item for item in store.list("")}
        self.before = before
        self._store, self._forgotten, self._mentions = store, tuple(forgotten), mentions
        finished = {key.split("/")[1] for key in self.objects if _RESULT.fullmatch(key)}
        self._stale = tuple(
            folder
            for job in finished | self._last_touched_before(abandoned_before)
            for folder in (job_folder(job), f"live/{job}/", f"jobs/{job}/request")
        )
        manifests = (key for key in self.objects if key.endswith("/manifest.json"))
        self._ids = {key.split("/")[1] for key in manifests if key.startswith(checkpoint.FOLDER)}
        self._evaluators = {key.split("/")[1] for key in self.objects if key.startswith("evaluators/")}

    def _last_touched_before(self, moment: datetime) -> set[str]:
        """Jobs whose newest snapshot, request, or whatever else they left to go on from, is older."""
        newest: dict[str, datetime] = {}
        for key, item in self.objects.items():
            if key.startswith(("snapshots/", "live/")) or _REQUEST.fullmatch(key):
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
        for key in self._documents(_NEIGHBORS, _SHARDS):
            if self._is_young(key) or (key.startswith(_NEIGHBORS) and key.split("/")[1] in needed):
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
            if self._is_root(key):
                needed |= self._mentioned_in(key)
        young = {one for one in self._ids if self._is_young(checkpoint.manifest_key(one))}
        return needed | young

    def _is_root(self, key: str) -> bool:
        if self.is_obsolete(key):
            return False
        if key.startswith(_TELLING):
            return self._is_young(key) or _REQUEST.fullmatch(key) is not None
        return not key.startswith((*_COLLECTED, aliases.FOLDER))

    def _with_parents(self, ids: set[str]) -> set[str]:
        kept: set[str] = set()
        while ids:
            kept |= ids
            mentioned = [self._mentioned_in(checkpoint.manifest_key(one)) for one in ids]
            ids = set().union(*mentioned) & self._ids - kept
        return kept

    def _survives(self, key: str, kept: set[str]) -> bool:
        """A checkpoint's documents live as long as it does, a job's result as long as all it mentions.

        A result whose checkpoint is gone already would keep its job from being run again.
        """
        if not key.startswith("jobs/"):
            return key.split("/")[1] in kept
        mentions = self._mentions_of(key)
        of_result = mentions.as_output if _RESULT.fullmatch(key) else set()
        return of_result <= kept | self._evaluators and mentions.anywhere & self._ids <= kept

    def _is_young(self, key: str) -> bool:
        return key in self.objects and self.objects[key].modified_at >= self.before

    def _documents(self, *folders: str) -> list[str]:
        return [key for key in self.objects if key.startswith(folders) and key.endswith(".json")]

    def _mentioned_in(self, key: str) -> set[str]:
        return self._mentions_of(key).anywhere

    def _mentions_of(self, key: str) -> _Mentions:
        item = self.objects[key]
        if item not in self._mentions:
            self._mentions[item] = _Mentions.of(key, self._store.read(key) or b"")
        return self._mentions[item]

    @staticmethod
    def _rank(key: str) -> int:
        return next(rank for rank, folder in enumerate(_COLLECTED) if key.startswith(folder))


BLOBS: Final = "blobs/sha256/"

_DOCUMENTS: Final = (
    "aliases/",
    "checkpoints/",
    "evaluation_neighbors/",
    "evaluation_shards/",
    "evaluations/",
    "evaluators/",
    "jobs/",
    "runs/",
    "snapshots/",
)
"""Where each .json is a sealed document: a bucket may hold other things beside them."""


def damaged_objects(store: Store, prefix: str, known: set[str]) -> Iterator[tuple[str, ProgdistillError]]:
    """Yield the damaged objects under a prefix with what is wrong, past those whose keys are in `known`."""
    for item in store.list(prefix):
        if item.key not in known:
            try:
                _verify(store, item)
            except (LostInvariantError, UsageError) as error:
                yield item.key, error


def _verify(store: Store, item: StoredObject) -> None:
    if item.key.startswith(BLOBS):
        store.verify(item.key, FileDigest(item.key.rpartition("/")[2], item.size_bytes))
    elif item.key.startswith(_DOCUMENTS) and item.key.endswith(".json"):
        data = store.read(item.key)
        if data is not None:  # Removed since it was listed.
            unseal(data, where=f"{store.uri}/{item.key}")
