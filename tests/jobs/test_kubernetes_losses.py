"""Which restarts of a gang count as getting nowhere."""

import torch

from progdistill.data.dataset import DatasetInfo
from progdistill.jobs.kubernetes.diagnostics import Ended
from progdistill.jobs.kubernetes.losses import LOSSES_IN_A_ROW, Losses, progress_of
from progdistill.store.base import Store
from progdistill.training.snapshots import SnapshotWriter
from tests.jobs.asking import base_of_two_ranks


def ends(*ended: tuple[int, str | None]) -> list[Ended]:
    """Both hosts, again and again: the exit status of the second one, and why it was taken away."""
    found = []
    for number, (status, disruption) in enumerate(ended):
        when = f"2026-01-01T00:{number:02d}:00Z"
        found.append(Ended("pod-0", 0, 75, "Error", when, None))
        found.append(Ended("pod-1", 1, status, "Error", when, disruption))
    return found


LOST: tuple[int, str | None] = (75, None)


def test_a_loss_that_no_end_explains_counts_once_for_all_hosts() -> None:
    losses = Losses(lambda: 0)
    assert losses.in_a_row([]) == 0
    assert [losses.in_a_row(ends(*[LOST] * n)) for n in range(7)] == [0, 1, 2, 3, 4, 5, 6]


def test_evictions_and_failures_that_cost_a_retry_are_never_counted() -> None:
    causes: list[tuple[int, str | None]] = [(137, "preempted"), (130, None), (1, None), (137, None)]
    for one in causes:
        losses = Losses(lambda: 0)
        assert losses.in_a_row([]) == 0
        assert losses.in_a_row(ends(*[one] * 20)) == 0
        assert losses.in_a_row(ends(*[LOST] * 4, one, LOST)) == 1


def test_whoever_attaches_counts_from_there_on() -> None:
    losses = Losses(lambda: 0)
    assert losses.in_a_row(ends(*[LOST] * 9)) == 0
    assert losses.in_a_row(ends(*[LOST] * 10)) == 1


def test_a_newer_snapshot_begins_the_count_anew() -> None:
    at = [100]
    losses = Losses(lambda: at[0])
    assert losses.in_a_row([]) == 0
    assert losses.in_a_row(ends(*[LOST] * 4)) == 4
    at[0] = 200
    assert losses.in_a_row(ends(*[LOST] * LOSSES_IN_A_ROW)) == 0
    assert losses.in_a_row(ends(*[LOST] * (LOSSES_IN_A_ROW + 3))) == 3
    assert losses.in_a_row(ends(*[LOST] * (2 * LOSSES_IN_A_ROW))) == LOSSES_IN_A_ROW


def test_many_losses_seen_at_once_are_not_held_against_the_job() -> None:
    losses = Losses(lambda: 0)
    assert losses.in_a_row([]) == 0
    assert losses.in_a_row(ends(*[LOST] * LOSSES_IN_A_ROW)) == 0
    assert losses.in_a_row(ends(*[LOST] * (LOSSES_IN_A_ROW + 1))) == 1


def test_progress_is_the_newest_snapshot_that_every_rank_has_finished(
    digits: DatasetInfo, store: Store
) -> None:
    spec = base_of_two_ranks(store, digits, seed=4).spec
    assert progress_of(spec, store) == (0, 0)
    writers = [SnapshotWriter(store, spec.id, rank=rank, world_size=2, attempt="one") for rank in (0, 1)]
    for update, here in [(10, writers), (20, writers[:1])]:
        for writer in here:
            writer.save(update, {"step": torch.tensor([update])}, {})
            writer.wait()
    assert progress_of(spec, store) == (10, 0)
