"""Counts how often the ranks of a job have lost one another for no reason that shows, and got nowhere.

A rank that lost another leaves with a status that costs no retry, since the other's own end counts. Where no
pod has such an end (ports between pods are closed, a collective waits for ever), nothing would ever count.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from progdistill.errors import Interrupted, PeerLostError
from progdistill.jobs.kubernetes.diagnostics import EVICTED, Ended
from progdistill.jobs.spec import JobSpec
from progdistill.store.base import Store
from progdistill.training.snapshot_format import complete_snapshots

LOSSES_IN_A_ROW: Final = 5
"""After so many a job is given up: one may come before the lost node behind it is known, but not several."""

_SHARDS: Final = "evaluation_shards/"


class Losses:
    """The losses in a row as a driver sees them; `progress` reads from the store how far the job is."""

    def __init__(self, progress: Callable[[], object]) -> None:
        self._progress = progress
        self._before: object = None
        self._since: str | None = None

    def in_a_row(self, ends: Sequence[Ended]) -> int:
        """How often all started again since a pod's end explained it, or since the store had news last."""
        if self._since is None:
            self._since = _latest(ends)  # what an earlier driver saw may have got somewhere
        since = max(self._since, _latest([end for end in ends if _explains(end)]))
        lost = Counter(end.host for end in ends if is_unexplained(end) and end.finished_at > since)
        losses = max(lost.values(), default=0)
        if losses >= LOSSES_IN_A_ROW and (self._before is None or self._progress() != self._before):
            # It got somewhere; or all came at once, after an outage, and nobody knows.
            self._since, losses = _latest(ends), 0
        if losses == 0:
            self._before = None
        elif self._before is None:
            self._before = self._progress()
        return losses


def progress_of(spec: JobSpec, store: Store) -> tuple[int, int]:
    """The update of the job's newest snapshot, and for a measurement how many shards are finished."""
    snapshots = complete_snapshots(store, spec.id)
    shards = sum(1 for _ in store.list(_SHARDS)) if spec.kind == "evaluate" else 0
    return (snapshots[0].update if snapshots else 0), shards


def is_unexplained(end: Ended) -> bool:
    """Whether a pod's end costs no retry although the cluster did not take the pod away."""
    if end.disruption is not None:
        return False
    # One that broke a limit of its own is stopped as if it were taken away, and may save its snapshot.
    stopped = end.reason == EVICTED and end.exit_code == Interrupted.exit_status
    return end.exit_code == PeerLostError.exit_status or stopped


def _explains(end: Ended) -> bool:
    return end.exit_code != 0 and not is_unexplained(end)


def _latest(ends: Sequence[Ended]) -> str:
    return max((end.finished_at for end in ends), default="")
