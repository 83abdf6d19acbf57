"""Snapshots: mid-stage training state, sharded over ranks, written beside the training loop.

Plain safetensors with sealed JSON: torch.distributed.checkpoint checks no digest and unpickles its metadata.
"""

import logging
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Shaped
from pydantic import JsonValue
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from progdistill.errors import LostInvariantError, TransientError
from progdistill.store.base import Store
from progdistill.store.documents import encode, read_record
from progdistill.training.snapshot_format import (
    ShardFacts,
    SliceFacts,
    SnapshotKey,
    complete_snapshots,
    prune_snapshots,
)

logger = logging.getLogger(__name__)


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
        self._buffers = {name: self._buffer_for(name, tensor) for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            self._buffers[name].copy_(tensor.detach(), non_blocking=True)
        if any(tensor.is_cuda for tensor in tensors.values()):
            torch.cuda.synchronize()
        return self._buffers

    def _buffer_for(self, name: str, tensor: Tensor) -> Tensor:
        buffer = self._buffers.get(name)
        if buffer is not None and buffer.shape == tensor.shape and buffer.dtype == tensor.dtype:
            return buffer
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)

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
        self._shards = [_verified(store, key, rank) for rank in range(key.world_size)]
        self.facts = self._shards[0][0].facts
        """The JSON that rank 0 recorded."""

    def read(self, name: str, offset: int, length: int) -> Shaped[Tensor, " length"]:
        """Return `length` elements from `offset` of a flattened tensor, for a rank of any world size."""
        pieces: list[tuple[int, Tensor]] = []
        for shard, path in self._shards:
            piece = shard.slices.get(name)
            if piece is None:
                continue
            start, end = max(offset, piece.offset), min(offset + length, piece.offset + piece.length)
            if start < end:
                with self._reading(path) as file:
                    stored = file.get_slice(name)
                    pieces.append((start, stored[start - piece.offset : end - piece.offset]))
        found = sum(len(tensor) for _, tensor in pieces)
        if found != length:
            raise LostInvariantError(
                f"snapshot after update {self.update}: {name} has {found} of the {length} elements from {offset}"
            )
        return torch.cat([tensor for _, tensor in sorted(pieces, key=lambda piece: piece[0])])

    @contextmanager
    def _reading(self, path: Path) -> Iterator[Any]:
        try:
            with safe_open(path, framework="pt") as file:
                yield file
        except (OSError, RuntimeError) as error:
            if path.exists():
                raise
            raise TransientError(
                f"the snapshot after update {self.update} was removed while it was read: another worker of"
                " this job continued or finished; try again"
            ) from error


def latest_snapshot(store: Store, job_id: str) -> Snapshot | None:
    """Return a job's newest intact snapshot, None when it has none.

    Every shard is verified; a damaged snapshot is logged and the one before it is taken.
    """
    for key in complete_snapshots(store, job_id):
        try:
            return Snapshot(store, key)
        except LostInvariantError as error:
            logger.warning("snapshot after update %d is skipped: %s", key.update, error)
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
