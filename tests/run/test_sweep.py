"""A sweep is refused before anything runs, or knows what its runs are, have in common and cost."""

import subprocess
import sys
from pathlib import Path

import pytest

from progdistill.config.sweep import Axis, read_axis, resolve_sweep
from progdistill.errors import UsageError
from progdistill.run.prepare import prepare_run
from progdistill.run.sweep import PreparedSweep, prepare_sweep
from progdistill.run.trainings import training_ids
from tests.end_to_end.running import environment

RATES = "distill.learning_rate=1e-4,3e-4"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sweep(**typed: object) -> PreparedSweep:
    return prepare_sweep(resolve_sweep({"ladder": "4:1", **typed}))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1e-4,3e-4", (1e-4, 3e-4)),
        ("snr,snr_plus_one", ("snr", "snr_plus_one")),
        ("null,v", (None, "v")),
        ("[1,2],[1,2,2]", ([1, 2], [1, 2, 2])),
        ('{"updates":3},{"updates":4}', ({"updates": 3}, {"updates": 4})),
        ('"64,16,1","64:1"', ("64,16,1", "64:1")),
    ],
)
def test_the_values_of_an_axis_are_json_or_names(text: str, values: tuple[object, ...]) -> None:
    axis = read_axis(f"a.b={text}")
    assert axis == Axis("a.b", values) and read_axis(str(axis)) == axis


def test_a_grid_is_every_setting_with_every_seed() -> None:
    found = sweep(over=[RATES, "ladder=4:1,4:1:4"], seeds=2, seed=5)
    points = [(m.setting["distill.learning_rate"], m.run.settings.ladder, m.seed) for m in found.members]
    ladders = ((4, 2, 1), (4, 1))
    assert points == [(rate, ladder, seed) for rate in (1e-4, 3e-4) for ladder in ladders for seed in (5, 6)]
    assert found.comparable_steps == (4, 1)


def test_a_member_is_the_very_run_of_its_options() -> None:
    member = sweep(over=[RATES], seeds=2).members[3]
    typed = {"ladder": "4:1", "seed": 1, "set": ["distill.learning_rate=3e-4"]}
    alone = prepare_run(resolve_sweep(typed))
    assert member.run == alone and training_ids(member.run) == training_ids(alone)


def test_what_runs_have_in_common_is_planned_once() -> None:
    """The base model of a seed is in both settings, and so is the student of 2 steps."""
    found = sweep(over=['distill.updates_at_steps={},{"1":50}'], seeds=2, updates_per_stage=None, base_updates=30)
    assert found.families == [[0, 2], [1, 3]]
    assert [found.shared_rungs(member) for member in range(4)] == [2, 2, 2, 2]
    assert found.facts()["checkpoints"] == 2 * (1 + 1 + 2)
    assert found.facts()["updates"] == 2 * (30 + 200 + 200 + 50)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ({"over": ["distill.learning_rat=1,2"]}, "--over distill.learning_rat: unknown setting; did you mean"),
        ({}, "a sweep of one run: give --over"),
        ({"over": ["distill.updates=5"]}, "a sweep of one run"),
        ({"over": ["distill.updates="]}, "lacks a value"),
        ({"over": ["distill.updates=5,5"]}, "has the value 5 twice"),
        ({"over": [RATES, RATES]}, "is given twice"),
        ({"over": [RATES], "seeds": 40}, "has 80 runs (2 settings × 40 seeds), more than --max-runs 64"),
        ({"over": [RATES], "max_runs": 1}, "more than --max-runs 1"),
        ({"seeds": 0}, "--seeds 0: give 1 or more"),
        ({"over": ["seed=1,2"]}, "give --seeds N"),
        ({"over": ["dataset=digits,flowers"]}, "give --dataset once"),
        ({"over": ["base-updates=5,x"]}, "'x' is not of type int"),
        ({"over": ["evaluation.evaluator=digits_classifier,efficientnet_lite0"]}, "differ in evaluation.evaluator"),
        ({"over": ["evaluation.samples=50,60"]}, "differ in evaluation.samples (50 and 60)"),
        ({"over": ["ladder=64:32,16:8"]}, "no number of sampling steps in common"),
        ({"over": ["distill.loss_weight=snr,snr_plus_one"]}, "run distill.loss_weight=snr, seed 0: loss weight 'snr'"),
    ],
)
def test_a_bad_sweep_is_one_message(typed: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        sweep(**typed)
    assert words in str(refused.value)


def test_the_command_refuses_before_anything_runs_and_plans_without_running(tmp_path: Path) -> None:
    def progdistill(*arguments: str) -> "subprocess.CompletedProcess[str]":
        line = [sys.executable, "-m", "progdistill.cli.main", "sweep", *arguments]
        return subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True)

    refused = progdistill("--over", "distil.updates=1,2")
    assert refused.returncode == 2 and refused.stdout == ""
    assert refused.stderr == "error: --over distil.updates: unknown setting; did you mean distill.updates?\n"
    planned = progdistill("--over", RATES, "--ladder", "4:1", "--plan")
    assert planned.returncode == 0 and "2 runs of digits (2 × 1 seeds)" in planned.stdout, planned.stderr
    assert not (tmp_path / "runs").exists() and not (tmp_path / ".metaflow").exists()
