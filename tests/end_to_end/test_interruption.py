"""Killed or asked to stop in the middle of a stage, a run goes on to the very same checkpoints."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.running import SMALL, command, environment, ids_of, run_flow

SNAPSHOTS = ("--set", "snapshots.interval_updates=2")


def resume_command(text: str) -> list[str]:
    found = re.search(r"resume --origin-run-id (\S+)", text)
    assert found, text[-2000:]
    return ["resume", "--origin-run-id", found.group(1)]


def test_kill_9_in_the_middle_of_a_stage_then_resume_gives_the_same_checkpoints(
    finished: Path, tmp_path: Path
) -> None:
    killed = run_flow(
        tmp_path, "run", "--ladder", "4:1", *SMALL, *SNAPSHOTS, PROGDISTILL_FAULT="kill:training.update@5"
    )
    assert killed.returncode == 1 and "SIGKILL" in killed.stdout + killed.stderr
    resumed = run_flow(tmp_path, *resume_command(killed.stderr))
    assert resumed.returncode == 0, resumed.stdout[-2000:] + resumed.stderr[-2000:]
    assert ids_of(tmp_path) == ids_of(finished)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_asked_to_stop_it_saves_leaves_with_130_and_goes_on(
    number: signal.Signals, finished: Path, tmp_path: Path
) -> None:
    started = subprocess.Popen(
        command("run", "--ladder", "4:1", *SMALL, *SNAPSHOTS),
        cwd=tmp_path,
        env=environment(PROGDISTILL_FAULT="hold:training.update@4"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert started.stdout is not None and started.stderr is not None
    for line in started.stdout:
        if "reached training.update" in line:
            break
    # A terminal sends Ctrl-C to the whole foreground group, a supervisor SIGTERM to the one process it knows.
    (os.killpg if number is signal.SIGINT else os.kill)(started.pid, number)
    _, errors = started.communicate(timeout=120)
    assert started.returncode == 130, errors[-2000:]
    assert list((tmp_path / ".progdistill" / "store" / "snapshots").rglob("*.json"))
    resumed = run_flow(tmp_path, *resume_command(errors))
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert ids_of(tmp_path) == ids_of(finished)
