"""A run that is killed or interrupted in the middle of a stage continues to exactly the same checkpoints."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from progdistill.registry.runs import run_checkpoints
from progdistill.store.open import open_store
from tests.end_to_end.running import SMALL, command, environment, ids_of, report_of, run_flow

SNAPSHOTS = ("--set", "snapshots.interval_updates=2")
LATE_SNAPSHOTS = ("--set", "snapshots.interval_updates=1000")  # only what an interrupt saves


def resume_command(text: str) -> list[str]:
    found = re.search(r"resume --origin-run-id (\S+)", text)
    assert found, text[-2000:]
    return ["resume", "--origin-run-id", found.group(1)]


def run_id_of(text: str) -> str:
    found = re.search(r"Workflow starting \(run-id (\S+)\)", text)
    assert found, text[-2000:]
    return found.group(1)


def test_kill_9_in_the_middle_of_a_stage_then_resume_gives_the_same_checkpoints(finished: Path, tmp_path: Path) -> None:
    killed = run_flow(
        tmp_path, "run", "--ladder", "4:1", *SMALL, *SNAPSHOTS, PROGDISTILL_FAULT="kill:training.update@5"
    )
    assert killed.returncode == 1 and "SIGKILL" in killed.stdout + killed.stderr
    resumed = run_flow(tmp_path, *resume_command(killed.stderr))
    assert resumed.returncode == 0, resumed.stdout[-2000:] + resumed.stderr[-2000:]
    assert ids_of(tmp_path) == ids_of(finished)


@pytest.mark.parametrize(
    ("number", "send"),
    [
        (signal.SIGINT, os.killpg),  # a terminal, to its foreground group
        (signal.SIGINT, os.kill),  # a supervisor, to the one process that it knows
        pytest.param(signal.SIGTERM, os.kill, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_saves_exits_with_130_and_resumes(
    number: signal.Signals, send: Callable[[int, int], None], finished: Path, tmp_path: Path
) -> None:
    started = subprocess.Popen(
        command("run", "--ladder", "4:1", *SMALL, *LATE_SNAPSHOTS),
        cwd=tmp_path,
        env=environment(PROGDISTILL_FAULT=f"hold:training.update@4:{tmp_path}/go"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert started.stdout is not None and started.stderr is not None
    for line in started.stdout:
        if "reached training.update" in line:
            break
    # Metaflow's name for what a bare `resume` resumes; another driver of this folder has begun a run since.
    (tmp_path / ".metaflow" / "DistillFlow" / "latest_run").write_text("1")
    send(started.pid, number)
    time.sleep(2)  # until the worker has the signal, too
    (tmp_path / "go").touch()
    _, errors = started.communicate(timeout=250)
    assert started.returncode == 130, errors[-2000:]
    assert list((tmp_path / ".progdistill" / "store" / "snapshots").rglob("*.json"))
    resumed = run_flow(tmp_path, *resume_command(errors))
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert ids_of(tmp_path) == ids_of(finished)


@pytest.mark.slow
def test_a_resumed_run_has_the_checkpoints_of_cloned_steps_and_can_be_resumed(tmp_path: Path) -> None:
    """Killed in the same stage twice; the base model is made in the first run alone."""
    killed = {"PROGDISTILL_FAULT": "kill:training.update@5"}
    first = run_flow(tmp_path, "run", "--ladder", "2:1", *SMALL, "--base-updates", "4", **killed)
    second = run_flow(tmp_path, *resume_command(first.stderr), **killed)
    third = run_flow(tmp_path, *resume_command(second.stderr))
    assert third.returncode == 0, third.stdout[-2000:] + third.stderr[-2000:]
    base, student = ids_of(tmp_path)
    last_alone = run_flow(tmp_path, "resume", "end", "--origin-run-id", report_of(tmp_path)["run_id"])
    assert last_alone.returncode == 0, last_alone.stdout[-2000:] + last_alone.stderr[-2000:]
    runs = [run_id_of(done.stdout) for done in (first, second, third, last_alone)]
    assert [resume_command(done.stderr)[-1] for done in (first, second)] == runs[:2]
    assert report_of(tmp_path)["run_id"] == runs[2]
    store = open_store(str(tmp_path / ".progdistill" / "store"))
    held = [run_checkpoints(store, "DistillFlow", run_id) for run_id in runs]
    assert held == [{2: base}, {2: base}, {2: base, 1: student}, {2: base, 1: student}]


def test_a_run_that_is_not_here_is_refused_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / ".metaflow" / "DistillFlow" / "1700000000").mkdir(parents=True)
    done = run_flow(tmp_path, "resume", "--origin-run-id", "DistillFlow/17")
    assert done.returncode == 2 and "Traceback" not in done.stdout + done.stderr
    assert done.stderr == f"error: no run 'DistillFlow/17' in {tmp_path}; there are 1700000000\n"
