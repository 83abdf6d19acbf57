"""Which checkpoint a run holds at each number of sampling steps."""

from typing import Literal

from pydantic import PositiveInt

from progdistill.errors import LostInvariantError
from progdistill.models_base import Frozen
from progdistill.store.base import Store
from progdistill.store.digest import Sha256
from progdistill.store.documents import list_records, publish_record

FOLDER = "runs/"
REPORTS_FOLDER = "reports/"


class RunCheckpoint(Frozen):
    """A run's checkpoint at `sampling_steps`: the student of that many steps, or the first teacher."""

    schema_version: Literal[1] = 1
    flow: str
    run_id: str
    sampling_steps: PositiveInt
    checkpoint_id: Sha256


def report_key(flow: str, run_id: str) -> str:
    """Where a run's report stands in a store: one page that needs no other file, for as long as the run."""
    return f"{REPORTS_FOLDER}{flow}/{run_id}/report.html"


def record_run_checkpoint(
    store: Store, flow: str, run_id: str, sampling_steps: int, checkpoint_id: str
) -> RunCheckpoint:
    """Record, once, what a run holds at `sampling_steps`. LostInvariantError if it holds another one."""
    entry = RunCheckpoint(
        flow=flow, run_id=run_id, sampling_steps=sampling_steps, checkpoint_id=checkpoint_id
    )
    held = publish_record(store, f"{FOLDER}{flow}/{run_id}/{sampling_steps}.json", entry)
    if held.checkpoint_id != checkpoint_id:
        raise LostInvariantError(
            f"run {flow}/{run_id} already holds checkpoint {held.checkpoint_id} at {sampling_steps} steps,"
            f" not {checkpoint_id}: a run's stages are made once"
        )
    return held


def run_checkpoints(store: Store, flow: str, run_id: str) -> dict[int, str]:
    """Return a run's checkpoint ids by number of steps, most steps first; empty for an unknown run."""
    entries = list_records(store, f"{FOLDER}{flow}/{run_id}/", RunCheckpoint)
    return {
        entry.sampling_steps: entry.checkpoint_id
        for entry in sorted(entries, key=lambda e: -e.sampling_steps)
    }


def list_run_checkpoints(store: Store) -> list[RunCheckpoint]:
    """Return the entries of all runs, by flow, run and falling number of steps."""
    entries = list_records(store, FOLDER, RunCheckpoint)
    return sorted(entries, key=lambda entry: (entry.flow, entry.run_id, -entry.sampling_steps))
