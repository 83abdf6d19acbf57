"""Jobs of two ranks on this machine: killed, failing and interrupted ranks, and the outcome of the job."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from progdistill.data.dataset import DatasetInfo
from progdistill.errors import NonFiniteError
from progdistill.jobs.agent import RESTARTS_WITHOUT_PROGRESS, progress_of
from progdistill.jobs.spec import CheckpointOutput, JobRequest, JobResult
from progdistill.store.base import Store
from progdistill.store.documents import read_record
from progdistill.store.layout import job_result_key
from progdistill.store.open import open_store
from progdistill.training.snapshots import SnapshotWriter, latest_snapshot
from tests.jobs.asking import base_of_two_ranks


def start(job: JobRequest, folder: Path, fault: str = "") -> "subprocess.Popen[str]":
    """Start the agent of both ranks."""
    path = folder / "request.json"
    path.write_text(job.model_dump_json())
    return subprocess.Popen(
        [sys.executable, "-m", "progdistill.jobs.agent", str(path)],
        env={**os.environ, "PROGDISTILL_FAULT": fault},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def wait_for(text: str, agent: "subprocess.Popen[str]", ranks: int) -> None:
    """Read the output until so many ranks have written a line with `text`."""
    assert agent.stdout is not None
    while ranks:
        line = agent.stdout.readline()
        assert line, f"the agent ended without {text!r}"
        ranks -= text in line


def finish(agent: "subprocess.Popen[str]") -> tuple[int, str]:
    """Return the exit status and the output."""
    output = agent.communicate(timeout=250)[0]
    return agent.returncode, output


def checkpoint_of(store: Store, job: JobRequest) -> str:
    result = read_record(store, job_result_key(job.spec.id), JobResult)
    assert result is not None
    return result.output_of(CheckpointOutput).checkpoint_id


@pytest.fixture(scope="module")
def undisturbed(digits: DatasetInfo, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The checkpoint of a job that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    store = open_store(str(folder / "store"))
    job = base_of_two_ranks(store, digits, seed=4)
    status, output = finish(start(job, folder))
    assert status == 0, output
    return checkpoint_of(store, job)


def test_a_killed_rank_costs_a_restart_in_place_and_no_number_changes(
    undisturbed: str, digits: DatasetInfo, store: Store, tmp_path: Path
) -> None:
    job = base_of_two_ranks(store, digits, seed=4)
    status, output = finish_without_rank_1(job, tmp_path)
    assert status == 0, output
    assert "rank 1 was killed by SIGKILL; restarting all ranks from the last snapshot" in output
    assert checkpoint_of(store, job) == undisturbed


@pytest.mark.slow
def test_ranks_are_restarted_though_their_fork_server_was_killed(
    undisturbed: str, digits: DatasetInfo, store: Store, tmp_path: Path
) -> None:
    job = base_of_two_ranks(store, digits, seed=4)
    status, output = finish_without_rank_1(job, tmp_path, and_fork_server=True)
    assert status == 0, output
    assert checkpoint_of(store, job) == undisturbed


def finish_without_rank_1(job: JobRequest, folder: Path, and_fork_server: bool = False) -> tuple[int, str]:
    """Run a job whose rank 1 is killed before its fifth update; return what `finish` does."""
    agent = start(job, folder, f"hold:training.update@5:{folder}/go")
    wait_for("reached training.update", agent, ranks=2)
    path = path_to(agent.pid, "1")
    assert [b"progdistill.jobs.forkserver" in Path(f"/proc/{process}/cmdline").read_bytes() for process in path] == [
        *[False],  # the agent
        *[True] * 3,  # the fork server, the process that waits for the rank, and the rank
    ]
    if and_fork_server:
        os.kill(path[1], signal.SIGKILL)
    os.kill(path[-1], signal.SIGKILL)
    (folder / "go").touch()
    return finish(agent)


def path_to(process: int, rank: str) -> list[int]:
    """The processes from this one down to the one of a rank; none if it has no such descendant."""
    if Path(f"/proc/{process}/comm").read_text() == f"rank {rank}\n":
        return [process]
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    below = next((path for child in children if (path := path_to(int(child), rank))), [])
    return [process, *below] if below else []


@pytest.mark.slow
def test_a_job_that_kills_its_ranks_before_any_progress_fails(
    digits: DatasetInfo, store: Store, tmp_path: Path
) -> None:
    status, output = finish(start(base_of_two_ranks(store, digits, seed=4), tmp_path, "kill:training.update@1"))
    assert status == 1
    assert f"no newer snapshot after {RESTARTS_WITHOUT_PROGRESS} restarts" in output


@pytest.mark.slow
def test_of_ranks_that_fail_together_none_is_restarted(digits: DatasetInfo, store: Store, tmp_path: Path) -> None:
    job = base_of_two_ranks(store, digits, seed=4, learning_rate=1e30)
    status, output = finish(start(job, tmp_path))
    assert status == NonFiniteError.exit_status and "not finite" in output and "restarting" not in output


def test_a_usage_error_is_not_repeated(digits: DatasetInfo, store: Store, tmp_path: Path) -> None:
    job = base_of_two_ranks(store, digits, seed=4)
    job = job.model_copy(update={"compute": job.compute.model_copy(update={"device": "tpu"})})
    status, output = finish(start(job, tmp_path))
    assert status == 2 and "torch-tpu" in output and "restarting" not in output


@pytest.mark.slow
def test_an_interrupted_job_saves_a_snapshot_and_is_resumed(
    undisturbed: str, digits: DatasetInfo, store: Store, tmp_path: Path
) -> None:
    job = base_of_two_ranks(store, digits, seed=4)
    agent = start(job, tmp_path, f"hold:training.update@3:{tmp_path}/go")
    wait_for("reached training.update", agent, ranks=2)
    agent.send_signal(signal.SIGTERM)
    agent.send_signal(signal.SIGINT)
    wait_for("interrupted: saving a snapshot", agent, ranks=2)
    (tmp_path / "go").touch()
    status, output = finish(agent)
    assert status == 130, output
    snapshot = latest_snapshot(store, job.spec.id)
    assert snapshot is not None
    status, output = finish(start(job, tmp_path))
    assert status == 0, output
    assert checkpoint_of(store, job) == undisturbed


@pytest.mark.slow
def test_ranks_stop_when_their_driver_is_gone(digits: DatasetInfo, store: Store, tmp_path: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    job = base_of_two_ranks(store, digits, seed=4).model_copy(update={"driver_process_id": driver.pid})
    agent = start(job, tmp_path, f"hold:training.update@3:{tmp_path}/go")
    assert agent.stdout is not None
    while "reached" not in agent.stdout.readline():
        pass
    driver.kill()
    driver.communicate()
    (tmp_path / "go").touch()
    status, output = finish(agent)
    # Eight updates may be done before a rank has looked for its driver.
    assert status == 130 or checkpoint_of(store, job), output


def test_progress_is_the_newest_snapshot_that_every_rank_has_finished(digits: DatasetInfo, store: Store) -> None:
    import torch

    spec = base_of_two_ranks(store, digits, seed=4).spec
    assert progress_of(spec, store) == (0, 0)
    writers = [SnapshotWriter(store, spec.id, rank=rank, world_size=2, attempt="one") for rank in (0, 1)]
    for update, here in [(10, writers), (20, writers[:1])]:
        for writer in here:
            writer.save(update, {"step": torch.tensor([update])}, {})
            writer.wait()
    assert progress_of(spec, store) == (10, 0)
