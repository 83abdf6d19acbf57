"""The checkpoints of each run, by number of sampling steps."""

from collections.abc import Iterable
from typing import Literal

from pydantic import PositiveInt

from progdistill.errors import LostInvariantError, ProgdistillError, UsageError
from progdistill.store.base import Store
from progdistill.store.digest import Sha256
from progdistill.store.documents import Record, list_records, publish_record
from progdistill.store.layout import RUNS, checkpoint_key, run_checkpoint_key, run_prefix


class RunCheckpoint(Record):
    """A run's checkpoint at `sampling_steps`: the student of that many steps, or the first teacher."""

    schema_version: Literal[2] = 2
    flow: str
    run_id: str
    sampling_steps: PositiveInt
    checkpoint_id: Sha256

    def references(self) -> Iterable[str]:
        """See Record.references."""
        return (checkpoint_key(self.checkpoint_id),)


def record_run_checkpoint(
    store: Store, flow: str, run_id: str, sampling_steps: int, checkpoint_id: str
) -> RunCheckpoint:
    """Record a run's checkpoint at `sampling_steps`.

    Raises:
        LostInvariantError: The run has another checkpoint there.
    """
    entry = RunCheckpoint(flow=flow, run_id=run_id, sampling_steps=sampling_steps, checkpoint_id=checkpoint_id)
    recorded = publish_record(store, run_checkpoint_key(flow, run_id, sampling_steps), entry)
    if recorded.checkpoint_id != checkpoint_id:
        raise LostInvariantError(
            f"run {flow}/{run_id} already has checkpoint {recorded.checkpoint_id} at {sampling_steps} steps,"
            f" not {checkpoint_id}: a run's stages are made once"
        )
    return recorded


def run_checkpoints(
    store: Store, flow: str, run_id: str, unreadable: list[ProgdistillError] | None = None
) -> dict[int, str]:
    """Return a run's checkpoint ids by number of steps, most steps first; empty for an unknown run.

    An entry that cannot be read raises; with `unreadable` the error is appended there and the entry skipped.
    """
    entries = list_records(store, run_prefix(flow, run_id), RunCheckpoint, unreadable)
    return {
        entry.sampling_steps: entry.checkpoint_id for entry in sorted(entries, key=lambda entry: -entry.sampling_steps)
    }


def require_run(store: Store, run: str, unreadable: list[ProgdistillError] | None = None) -> dict[int, str]:
    """Like `run_checkpoints`, for `Flow/run id`; UsageError for an unknown run."""
    flow, _, run_id = run.partition("/")
    known = len(unreadable or ())
    checkpoints = run_checkpoints(store, flow, run_id, unreadable) if flow and run_id else {}
    if not checkpoints and len(unreadable or ()) == known:
        raise UsageError(f"no run {run} in store {store.uri}; give it as Flow/run id (`progdistill lineage`)")
    return checkpoints


def list_run_checkpoints(store: Store, unreadable: list[ProgdistillError] | None = None) -> list[RunCheckpoint]:
    """Return the entries of all runs, by flow, run and falling number of steps; `unreadable` as above."""
    entries = list_records(store, RUNS, RunCheckpoint, unreadable)
    return sorted(entries, key=lambda entry: (entry.flow, entry.run_id, -entry.sampling_steps))
