"""A sweep is killed and resumed; its runs are those that `run` makes alone."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from progdistill.registry.runs import run_checkpoints
from progdistill.store.open import open_store
from tests.end_to_end.running import command, environment, ids_of, run_flow

FLOW = Path(__file__).parents[2] / "flows" / "sweep_flow.py"
SMALL = ("--ladder", "2:1", "--base-updates", "4", "--updates-per-stage", "6", "--set", "evaluation.samples=50")
SWEEP = ("--over", "distill.learning_rate=1e-4,1e-3", *SMALL)


def sweep_of(folder: Path) -> dict[str, Any]:
    """The newest sweep of a folder."""
    found: dict[str, Any] = json.loads((folder / "runs" / "latest" / "report" / "sweep.json").read_text())
    return found


def kill_in_a_student(folder: Path) -> str:
    """Start the sweep, kill every process of it in the fifth update of a student, and return its run id."""
    started = subprocess.Popen(
        command("run", *SWEEP, flow=FLOW),
        cwd=folder,
        env=environment(PROGDISTILL_FAULT=f"hold:training.update@5:{folder}/go"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert started.stdout is not None
    run_id, seen = "", ""
    for line in started.stdout:
        seen += line
        if "(run-id " in line:
            run_id = line.rpartition("(run-id ")[2].partition(")")[0]
        if "reached training.update" in line:
            break
    os.killpg(started.pid, signal.SIGKILL)
    (folder / "go").touch()
    started.communicate(timeout=250)
    assert run_id and "reached training.update" in seen, seen[-3000:]
    return run_id


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_sweep_resumes_and_its_runs_are_those_made_alone(tmp_path: Path) -> None:
    """The base model, which has four updates, is made when it is killed; it is not made again."""
    together, alone = tmp_path / "together", tmp_path / "alone"
    together.mkdir()
    alone.mkdir()
    origin = kill_in_a_student(together)
    made = sorted(path.parent.name for path in (together / ".progdistill/store/checkpoints").glob("*/manifest.json"))
    resumed = run_flow(together, "resume", "--origin-run-id", origin, flow=FLOW)
    assert resumed.returncode == 0, resumed.stdout[-3000:] + resumed.stderr[-3000:]
    report = sweep_of(together)
    runs = {(run["setting"]["distill.learning_rate"], run["seed"]): run for run in report["runs"]}
    assert runs.keys() == {(1e-4, 0), (1e-3, 0)}
    ids = {key: [stage["id"] for stage in run["checkpoints"]] for key, run in runs.items()}
    assert made == [ids[1e-4, 0][0]] == [ids[1e-3, 0][0]]
    done = run_flow(alone, "run", *SMALL, "--set", "distill.learning_rate=1e-3")
    assert done.returncode == 0, done.stderr[-2000:]
    assert ids_of(alone) == ids[1e-3, 0]
    store = open_store(str(together / ".progdistill" / "store"))
    for member, run in enumerate(report["runs"]):
        held = run_checkpoints(store, "SweepFlow", f"{report['run_id']}.{member}")
        assert list(held.values()) == [stage["id"] for stage in run["checkpoints"]]
    assert list(run_checkpoints(store, "SweepFlow", report["run_id"]).values()) in ids.values()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_diverges_is_reported_and_the_others_finish(tmp_path: Path) -> None:
    rates = ("--over", "distill.learning_rate=1e-3,1e30", *SMALL)
    done = run_flow(tmp_path, "run", *rates, flow=FLOW)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    good, bad = sweep_of(tmp_path)["runs"]
    assert good["diverged"] is None and len(good["checkpoints"]) == 2
    assert "not finite" in bad["diverged"] and bad["checkpoints"] == []
