"""Two processes train as a gang: one is killed, both start again, and nothing of it shows in the numbers."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from progdistill.data.dataset import DatasetInfo
from progdistill.errors import PeerLostError
from progdistill.jobs.ranks import LocalRanks, free_port
from progdistill.jobs.spec import JobRequest, JobResult
from progdistill.store.base import Store
from progdistill.store.documents import read_record
from progdistill.store.layout import job_result_key
from progdistill.store.open import open_store
from tests.jobs.asking import base_of_two_ranks

PEER_LOST = PeerLostError.exit_status


def start(job: JobRequest, folder: Path, *faults: str) -> "list[subprocess.Popen[str]]":
    """Start both ranks, as a cluster does: nobody looks after both."""
    path, which = folder / "request.json", LocalRanks(0, 2, 2, "localhost", free_port())
    path.write_text(job.model_dump_json())
    return [
        subprocess.Popen(
            [sys.executable, "-m", "progdistill.jobs.worker", str(path)],
            env={**os.environ, **which.environment(rank), "PROGDISTILL_FAULT": fault},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank, fault in enumerate(faults)
    ]


def statuses(world_size: "list[subprocess.Popen[str]]") -> tuple[list[int], str]:
    """How the ranks ended, and what they said."""
    errors = [rank.communicate(timeout=250)[1] for rank in world_size]
    return [rank.returncode for rank in world_size], "\n".join(errors)


def checkpoint_of(store: Store, job: JobRequest) -> str:
    result = read_record(store, job_result_key(job.spec.id), JobResult)
    assert result is not None
    return result.output


def test_a_killed_rank_costs_a_restart_of_both_and_no_number_changes(
    digits: DatasetInfo, tmp_path: Path
) -> None:
    calm, stormy = open_store(str(tmp_path / "calm")), open_store(str(tmp_path / "stormy"))
    job = base_of_two_ranks(stormy, digits, seed=4)
    assert statuses(start(base_of_two_ranks(calm, digits, seed=4), tmp_path, "", ""))[0] == [0, 0]
    ended, said = statuses(start(job, tmp_path, "", "kill:training.update@5"))
    assert ended == [PEER_LOST, -signal.SIGKILL], said
    again, said = statuses(start(job, tmp_path, "", ""))
    assert again == [0, 0], said
    assert checkpoint_of(stormy, job) == checkpoint_of(calm, job)


def test_of_ranks_that_fail_together_one_has_failed(
    digits: DatasetInfo, store: Store, tmp_path: Path
) -> None:
    job = base_of_two_ranks(store, digits, seed=4, learning_rate=1e30)
    ended, said = statuses(start(job, tmp_path, "", ""))
    assert sorted(ended) == [1, PEER_LOST]
    assert "not finite" in said


@pytest.mark.slow
def test_asked_to_stop_one_rank_takes_the_other_with_it_and_both_go_on_later(
    digits: DatasetInfo, store: Store, tmp_path: Path
) -> None:
    job = base_of_two_ranks(store, digits, seed=4)
    world_size = start(job, tmp_path, "", f"hold:training.update@3:{tmp_path}/go")
    assert world_size[1].stdout is not None and "reached" in world_size[1].stdout.readline()
    world_size[1].send_signal(signal.SIGTERM)
    (tmp_path / "go").touch()
    ended, said = statuses(world_size)
    assert ended == [130, 130], said
    assert statuses(start(job, tmp_path, "", ""))[0] == [0, 0]
    assert checkpoint_of(store, job)


def test_a_rank_that_waits_for_the_other_leaves_when_asked_to(
    digits: DatasetInfo, store: Store, tmp_path: Path
) -> None:
    path, which = tmp_path / "request.json", LocalRanks(0, 2, 2, "localhost", free_port())
    path.write_text(base_of_two_ranks(store, digits, seed=4).model_dump_json())
    alone = subprocess.Popen(
        [sys.executable, "-m", "progdistill.jobs.worker", str(path)],
        env={**os.environ, **which.environment(0)},
        text=True,
        stderr=subprocess.PIPE,
    )
    while not _is_served(which.port):
        assert alone.poll() is None
    alone.send_signal(signal.SIGTERM)
    assert "stopped before it began" in alone.communicate(timeout=250)[1]
    assert alone.returncode == 130


def _is_served(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
