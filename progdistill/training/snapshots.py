"""Snapshots: mid-stage training state, sharded over ranks, written beside the training loop.

Each rank writes a safetensors shard and, after it, a sealed JSON document. A snapshot is complete when the documents
of all ranks exist: no rank waits for another. torch.distributed.checkpoint checks no digest and unpickles its metadata.
"""

import logging
import re
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import torch
from jaxtyping import Shaped
from pydantic import JsonValue, NonNegativeInt, PositiveInt
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from progdistill.errors import LostInvariantError
from progdistill.models_base import Frozen
from progdistill.store.base import Store
from progdistill.store.digest import FileDigest
from progdistill.store.documents import Record, encode, read_record
from progdistill.store.layout import snapshots_prefix

logger = logging.getLogger(__name__)

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


class FlatSlice(NamedTuple):
    """A rank's piece of a flattened tensor: the piece, its first element, and the elements of the whole."""

    tensor: Shaped[Tensor, " elements"]
    offset: int
    full_length: int


class SnapshotWriter:
    """Writes a job's snapshots from one rank. `save` copies and returns; a thread does the rest.

    Training waits only if the previous snapshot is still being written: there is one copy of the state.
    All ranks of one launch share `attempt`, so that shards of different launches never mix.
    """

    def __init__(
        self, store: Store, job_id: str, *, keep: int = 2, rank: int = 0, world_size: int = 1, attempt: str = "alone"
    ) -> None:
        self._store, self._job_id, self._keep = store, job_id, keep
        self._rank, self._world_size, self._attempt = rank, world_size, attempt
        self._buffers: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self.stalled_seconds = 0.0
        """Time that all calls of `save` took."""

    def save(
        self,
        update: int,
        tensors: Mapping[str, Tensor],
        facts: Mapping[str, JsonValue],
        flat: Mapping[str, FlatSlice] | None = None,
    ) -> None:
        """Take a snapshot; the tensors may change as soon as this returns.

        A failed write is logged, and raised by `wait`; training continues without it.

        Args:
            update: Updates done.
            tensors: Equal on all ranks, of which each writes its share.
            facts: JSON to record.
            flat: This rank's slices of sharded tensors.
        """
        began = time.perf_counter()
        self.join()
        shared = _share_of(tensors, self._rank, self._world_size)
        pieces = {name: FlatSlice(tensors[name].flatten(), 0, tensors[name].numel()) for name in shared}
        pieces |= flat or {}
        copies = self._copied({name: piece.tensor for name, piece in pieces.items()})
        slices = {
            name: SliceFacts(offset=p.offset, length=p.tensor.numel(), full_length=p.full_length)
            for name, p in pieces.items()
        }
        key = SnapshotKey(self._job_id, update, self._attempt, self._world_size)
        arguments = (key, copies, slices, dict(facts))
        self._thread = threading.Thread(target=self._write, args=arguments, name=f"snapshot-{update}")
        self._thread.start()
        self.stalled_seconds += time.perf_counter() - began

    def wait(self) -> None:
        """Wait until the last snapshot is in the store; raise the error of a failed write."""
        self.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def join(self) -> None:
        """Wait until nothing is being written; errors have been logged."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _copied(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copy to buffers in main memory, reused by the next snapshot (page-locked for a GPU)."""
        buffers: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            buffer = self._buffers.get(name)
            if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
                buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            buffers[name] = buffer.copy_(tensor.detach(), non_blocking=True)
        self._buffers = buffers
        if any(tensor.is_cuda for tensor in tensors.values()):
            torch.cuda.synchronize()
        return buffers

    def _write(
        self, key: SnapshotKey, tensors: dict[str, Tensor], slices: dict[str, SliceFacts], facts: dict[str, JsonValue]
    ) -> None:
        try:
            self._error = None
            file = self._store.scratch() / f"{uuid.uuid4().hex}.safetensors"
            try:
                save_file(tensors, file)
                digest = self._store.upload(file, lambda _: key.tensors_key(self._rank), consume=True)
            finally:
                file.unlink(missing_ok=True)
            document = ShardFacts(**key._asdict(), rank=self._rank, tensors=digest, slices=slices, facts=facts)
            self._store.write(key.document_key(self._rank), encode(document))
            if self._rank == 0:
                prune_snapshots(self._store, key, keep=self._keep)
        except Exception as error:  # Training continues whatever it is; `wait` raises it.
            self._error = error
            logger.warning("snapshot after update %d was not written: %s", key.update, error)


class Snapshot:
    """A complete snapshot whose shards have all been verified."""

    def __init__(self, store: Store, key: SnapshotKey) -> None:
        """Fetch and verify the shards; LostInvariantError when one is damaged or gone."""
        self.name = key.name
        """For `snapshot_named` in another process."""
        self.update = key.update
        """The number of updates done when it was taken."""
        # Opened at once: what another worker of the job removes meanwhile can still be read.
        self._shards = [_opened(*_verified(store, key, rank)) for rank in range(key.world_size)]
        self.facts = self._shards[0][0].facts
        """The JSON that rank 0 recorded."""

    def close(self) -> None:
        """Close the files, so that the room of removed ones is free."""
        self._shards = []

    def read(self, name: str, offset: int, length: int) -> Shaped[Tensor, " length"]:
        """Return `length` elements from `offset` of a flattened tensor, for a rank of any world size."""
        pieces: list[tuple[int, Tensor]] = []
        for shard, file in self._shards:
            piece = shard.slices.get(name)
            if piece is None:
                continue
            start, end = max(offset, piece.offset), min(offset + length, piece.offset + piece.length)
            if start < end:
                stored = file.get_slice(name)
                pieces.append((start, stored[start - piece.offset : end - piece.offset]))
        found = sum(len(tensor) for _, tensor in pieces)
        if found != length:
            raise LostInvariantError(
                f"snapshot after update {self.update}: {name} has {found} of the {length} elements from {offset}"
            )
        return torch.cat([tensor for _, tensor in sorted(pieces, key=lambda piece: piece[0])])


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


def latest_snapshot(store: Store, job_id: str) -> Snapshot | None:
    """Return a job's newest intact snapshot, None when it has none.

    Every shard is verified; a damaged snapshot is logged and the one before it is taken. Where another worker of the
    job has written a newer one meanwhile, and removed those that were listed, they are listed again.
    """
    skipped: set[SnapshotKey] = set()
    while remaining := [key for key in complete_snapshots(store, job_id) if key not in skipped]:
        try:
            return Snapshot(store, remaining[0])
        except LostInvariantError as error:
            skipped.add(remaining[0])
            logger.warning("snapshot after update %d is skipped: %s", remaining[0].update, error)
    return None


def snapshot_named(store: Store, job_id: str, name: str) -> Snapshot:
    """Return the job's snapshot of that name; LostInvariantError when it is damaged or gone."""
    return Snapshot(store, SnapshotKey.named(job_id, name))


def _verified(store: Store, key: SnapshotKey, rank: int) -> tuple[ShardFacts, Path]:
    document = key.document_key(rank)
    shard = read_record(store, document, ShardFacts)
    if shard is None or (shard.rank, shard.update, shard.job_id) != (rank, key.update, key.job_id):
        raise LostInvariantError(f"{store.uri}/{document} is missing or in the wrong place")
    return shard, store.download(key.tensors_key(rank), shard.tensors)


def _opened(shard: ShardFacts, path: Path) -> tuple[ShardFacts, Any]:
    """A shard with its open file; LostInvariantError unless the file has the tensors that the document lists."""
    try:
        file: Any = safe_open(path, framework="pt")
        lengths = {name: file.get_slice(name).get_shape() for name in shard.slices}
    except (SafetensorError, OSError, RuntimeError) as error:
        raise LostInvariantError(f"{path} is not the shard that its document describes: {error}") from error
    if wrong := [name for name, piece in shard.slices.items() if lengths[name] != [piece.length]]:
        raise LostInvariantError(f"{path} is not the shard that its document describes: {wrong[0]} has another size")
    return shard, file


def _share_of(tensors: Mapping[str, Tensor], rank: int, world_size: int) -> list[str]:
    """Names of the replicated tensors that this rank writes: about equal bytes for each rank."""
    loads = [0] * world_size
    mine = []
    for name in sorted(tensors, key=lambda name: (-tensors[name].nbytes, name)):
        lightest = loads.index(min(loads))
        loads[lightest] += tensors[name].nbytes
        if lightest == rank:
            mine.append(name)
    return mine
