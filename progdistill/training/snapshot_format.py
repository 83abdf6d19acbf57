"""The layout of a snapshot: one safetensors shard per rank and, written after it, one sealed document.

A snapshot is complete when the documents of all ranks exist: no rank waits for another.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Final, Literal, NamedTuple

from pydantic import JsonValue, NonNegativeInt, PositiveInt

from progdistill.models_base import Frozen
from progdistill.store.base import Store
from progdistill.store.digest import FileDigest
from progdistill.store.documents import Record
from progdistill.store.layout import snapshots_prefix

_PIECE: Final = re.compile(r"((\d{12})-([A-Za-z0-9]+)/)\d{5}-of-(\d{5})\.(json|safetensors)")


class SliceFacts(Frozen):
    """A rank's slice of a flattened tensor: first element, number of elements, elements of the whole."""

    offset: NonNegativeInt
    length: NonNegativeInt
    full_length: NonNegativeInt


class ShardFacts(Record):
    """The document that completes one rank's shard."""

    schema_version: Literal[2] = 2
    job_id: str
    update: NonNegativeInt
    attempt: str
    rank: NonNegativeInt
    world_size: PositiveInt
    tensors: FileDigest
    slices: dict[str, SliceFacts]
    facts: dict[str, JsonValue]

    def references(self) -> Iterable[str]:
        """See Record.references."""
        key = SnapshotKey(self.job_id, self.update, self.attempt, self.world_size)
        return (key.tensors_key(self.rank),)


class SnapshotKey(NamedTuple):
    """Identifies a snapshot; `attempt` names the launch that took it."""

    job_id: str
    update: int
    attempt: str
    world_size: int

    @property
    def name(self) -> str:
        """The name of the snapshot within its job."""
        return f"{self.update}-{self.attempt}-{self.world_size}"

    @staticmethod
    def named(job_id: str, name: str) -> "SnapshotKey":
        """The key of a snapshot with this name."""
        update, attempt, world_size = name.split("-")
        return SnapshotKey(job_id, int(update), attempt, int(world_size))

    @property
    def folder(self) -> str:
        """Prefix of all its keys."""
        return f"{snapshots_prefix(self.job_id)}{self.update:012d}-{self.attempt}/"

    def document_key(self, rank: int) -> str:
        """Key of a rank's document."""
        return f"{self.folder}{rank:05d}-of-{self.world_size:05d}.json"

    def tensors_key(self, rank: int) -> str:
        """Key of a rank's safetensors shard."""
        return self.document_key(rank).removesuffix("json") + "safetensors"


def complete_snapshots(store: Store, job_id: str) -> list[SnapshotKey]:
    """Return the snapshots of a job whose every rank has finished, those of most updates first."""
    finished_at = _complete_since(store, job_id)
    return sorted(finished_at, key=lambda key: (key.update, finished_at[key]), reverse=True)


def _complete_since(store: Store, job_id: str) -> dict[SnapshotKey, datetime]:
    """The complete snapshots of a job, and when the last rank of each had finished."""
    written: dict[SnapshotKey, int] = {}
    finished_at: dict[SnapshotKey, datetime] = {}
    folder = snapshots_prefix(job_id)
    for item in store.list(folder):
        found = _PIECE.fullmatch(item.key.removeprefix(folder))
        if found and found[5] == "json":
            key = SnapshotKey(job_id, int(found[2]), found[3], int(found[4]))
            written[key] = written.get(key, 0) + 1
            finished_at[key] = max(item.modified_at, finished_at.get(key, item.modified_at))
    return {key: finished_at[key] for key, documents in written.items() if documents == key.world_size}


def prune_snapshots(store: Store, latest: SnapshotKey, *, keep: int) -> None:
    """Remove all but the `keep` complete snapshots of a job that were finished last, `latest` among them.

    These need not have the most updates: training resumes from before damaged ones. Incomplete snapshots that are
    older than the remaining ones go too. Documents go before tensors, so that a snapshot vanishes at once.
    """
    finished_at = _complete_since(store, latest.job_id)
    newest_first = sorted(finished_at, key=lambda key: (key == latest, finished_at[key], key.update), reverse=True)
    remaining = {key.folder for key in newest_first[:keep]}
    complete = {key.folder for key in newest_first}
    oldest = min((key.update for key in newest_first[:keep] if key.update <= latest.update), default=-1)
    prefix = snapshots_prefix(latest.job_id)
    for key in sorted((item.key for item in store.list(prefix)), key=lambda key: key.endswith(".safetensors")):
        piece = _PIECE.fullmatch(key.removeprefix(prefix))
        if piece and (folder := prefix + piece[1]) not in remaining and (folder in complete or int(piece[2]) <= oldest):
            store.delete(key)


def delete_snapshots(store: Store, job_id: str) -> None:
    """Remove all snapshots of a job, whose result is published."""
    for item in list(store.list(snapshots_prefix(job_id))):
        store.delete(item.key)
