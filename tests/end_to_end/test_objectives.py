"""Objectives that jump, through the flow: a stage that is killed goes on to exactly the same students."""

from pathlib import Path

import pytest

from tests.end_to_end.running import SMALL, ids_of, report_of, run_flow
from tests.end_to_end.test_interruption import SNAPSHOTS, resume_command

SHORT = (*SMALL, *SNAPSHOTS, "--base-updates", "4")
"""The base model ends before the update at which a process is killed."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ladder", "options"),
    [
        ("8,4:tract,1:tract", ()),
        ("8,1:consistency", ()),
        ("8,1:tract", ("--set", "distill.lora.rank=2")),
        ("8,1:tract", ("--set", "distill.loss=pseudo_huber", "--set", "distill.teacher_solver=heun")),
    ],
)
def test_a_stage_that_is_killed_goes_on_to_the_same_students(
    ladder: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "undisturbed").mkdir()
    (tmp_path / "killed").mkdir()
    undisturbed = run_flow(tmp_path / "undisturbed", "run", "--ladder", ladder, *SHORT, *options)
    assert undisturbed.returncode == 0, undisturbed.stdout[-2000:] + undisturbed.stderr[-2000:]
    fault = {"PROGDISTILL_FAULT": "kill:training.update@5"}
    killed = run_flow(tmp_path / "killed", "run", "--ladder", ladder, *SHORT, *options, **fault)
    assert killed.returncode == 1 and "SIGKILL" in killed.stdout + killed.stderr
    resumed = run_flow(tmp_path / "killed", *resume_command(killed.stderr))
    assert resumed.returncode == 0, resumed.stdout[-2000:] + resumed.stderr[-2000:]
    assert ids_of(tmp_path / "killed") == ids_of(tmp_path / "undisturbed")
    distances = [checkpoint["distance"] for checkpoint in report_of(tmp_path / "killed")["checkpoints"]]
    assert distances == [checkpoint["distance"] for checkpoint in report_of(tmp_path / "undisturbed")["checkpoints"]]
