"""`progdistill run` and `progdistill resume`, and other ways to start the same flow."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.running import FLOW, SMALL, environment, ids_of, run_flow
from tests.end_to_end.test_interruption import resume_command


def progdistill(folder: Path, *arguments: str, **extra: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of `progdistill`."""
    line = [sys.executable, "-m", "progdistill.cli.main", *arguments]
    return subprocess.run(line, cwd=folder, env=environment(**extra), capture_output=True, text=True)


@pytest.mark.slow
def test_a_run_of_the_command_is_resumed_to_the_checkpoints_of_the_flow(finished: Path, tmp_path: Path) -> None:
    fault = {"PROGDISTILL_FAULT": "kill:training.update@5"}
    line = ("run", "--ladder", "4:1", *SMALL, "--set", "snapshots.interval_updates=2", "--tag", "mine")
    killed = progdistill(tmp_path, *line, **fault)
    assert killed.returncode == 1 and "To resume: progdistill resume --origin-run-id" in killed.stderr
    resumed = progdistill(tmp_path, *resume_command(killed.stderr))
    assert resumed.returncode == 0, resumed.stdout[-2000:] + resumed.stderr[-2000:]
    assert ids_of(tmp_path) == ids_of(finished)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--dataset", "nonsense"), "digits"),
        (("run", "--ladder", "6:1"), "power of two"),
        (("run", "--seed", "x"), "invalid int value: 'x'"),
        (("run", "--like", "production"), "--like was renamed: use --reproduce"),
        (("run", "--no-such-option"), "no such option: --no-such-option"),
        (("run", "--datset", "digits"), "no such option: --datset: did you mean --dataset?"),
        (("resume", "--max-wrkers", "3"), "no such option: --max-wrkers: did you mean --max-workers?"),
        (("plan", "--laddr=4:1"), "did you mean --ladder?"),
        (("resume", "--origin-run-id", "17"), "no run '17' in"),
        (("chekpoints", "list"), "there is no 'chekpoints'; did you mean checkpoints?"),
        (("checkpoints", "lst"), "there is no 'lst'; did you mean list?"),
        (("sample", "best", "--sampler", "ddmi"), "argument --sampler: there is no 'ddmi'; did you mean ddim?"),
        (("sample", "best", "--sampler", "xyz"), "invalid choice: 'xyz' (choose from 'ddim'"),
        (("plan", "--no-such-option"), "unrecognized arguments: --no-such-option"),
    ],
)
def test_bad_input_is_one_message_and_status_2(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = progdistill(tmp_path, *arguments)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_written_is_one_message() -> None:
    done = progdistill(Path("/proc"), "run")
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot write results in /proc: ") and done.stderr.count("\n") == 1


def test_a_variable_that_metaflow_alone_would_follow_is_refused(tmp_path: Path) -> None:
    done = progdistill(tmp_path, "run", METAFLOW_RUN_PRESET="cifar10")
    assert done.returncode == 2
    assert done.stderr == "error: METAFLOW_RUN_PRESET is set: unset it, and give --preset instead\n"


def test_bad_input_that_only_a_step_sees_is_one_message_too(tmp_path: Path) -> None:
    """As on Argo, where nothing checks the options before the run starts."""
    script = tmp_path / "mine.py"
    script.write_text("from progdistill.flow import DistillFlow\nDistillFlow()\n")
    done = run_flow(tmp_path, "run", "--preset", "nonsense", flow=script)
    output = done.stdout + done.stderr
    assert done.returncode == 1
    assert "unknown preset 'nonsense'; valid presets: digits" in output and "Traceback" not in output


@pytest.mark.slow
def test_metaflows_runner_starts_the_flow(tmp_path: Path) -> None:
    script = (
        "from metaflow import Runner\n"
        f"with Runner({str(FLOW)!r}).run(ladder='2:1', base_updates=4, updates_per_stage=2,"
        " set=['evaluation.samples=50']) as running:\n"
        "    print(running.status, len(running.run.data.checkpoints))\n"
    )
    line = [sys.executable, "-c", script]
    done = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["successful 2"], done.stdout[-2000:] + done.stderr[-2000:]
    assert len(ids_of(tmp_path)) == 2
