"""A sweep is deployed like a run."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from progdistill.config.sweep import SWEEP_OPTIONS
from tests.end_to_end.running import command
from tests.end_to_end.test_sweep import FLOW
from tests.schedules.conftest import datastore, parameters_of, pods_of, templates_of

DEPLOYMENT = """
image = "registry.example/progdistill@sha256:0"

[options]
store = "s3://models/team"
seeds = 4
over = { "distill.learning_rate" = [5e-5, 1e-4], ladder = ["64:4", "64:4:4"] }
"""


def compile_sweep(endpoint: str, folder: Path, deployment: str) -> "subprocess.CompletedProcess[str]":
    (folder / "sweep.toml").write_text(deployment)
    options = ("--config", "deployment", "sweep.toml", "--datastore", "s3", "argo-workflows", "create", "--only-json")
    line = command(*options, flow=FLOW)
    return subprocess.run(line, cwd=folder, env=datastore(endpoint), capture_output=True, text=True)


def test_it_compiles_with_its_grid_and_its_report_is_required(flows_bucket: str, tmp_path: Path) -> None:
    done = compile_sweep(flows_bucket, tmp_path, DEPLOYMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    template: dict[str, Any] = json.loads(done.stdout)
    parameters = {key: value for key, value in parameters_of(template).items() if value is not None}
    assert parameters_of(template).keys() == {option.parameter for option in SWEEP_OPTIONS}
    assert parameters == {
        "store": "s3://models/team",
        "seeds": 4,
        "over": 'distill.learning_rate=5e-05,0.0001 ladder="64:4","64:4:4"',
    }
    pods = pods_of(template)
    assert {"train_shared", "run_member", "collect_family"} <= pods.keys()
    assert pods["run_member"]["activeDeadlineSeconds"] == 4 * 7 * 24 * 3600
    check = templates_of(template)["require-report"]["container"]["command"][-1]
    assert "--run SweepFlow/argo-{{workflow.name}}" in check


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ('over = { "distill.learning_rate" = 1e-4 }', "must be a table of settings' paths and lists"),
        ('over = { "distill.learning_rate" = [] }', "must be a table of settings' paths and lists"),
        ("seed = 4\nsets = 1", "unknown option 'sets'"),
        ("seed = 4", "a sweep of one run"),
        ('over = { "distill.learning_rat" = [1, 2] }', "did you mean distill.learning_rate"),
    ],
)
def test_a_bad_grid_is_refused_by_name(options: str, words: str, flows_bucket: str, tmp_path: Path) -> None:
    done = compile_sweep(flows_bucket, tmp_path, f'image = "x"\n[options]\nstore = "s3://a/b"\n{options}\n')
    assert done.returncode != 0 and done.stdout == ""
    assert words in done.stderr and "Traceback" not in done.stderr
