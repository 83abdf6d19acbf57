"""docs/schedules.md: its files are valid, and its commands do what the page says."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from progdistill.config.deployment import DeploymentSettings, PodSettings, parse_deployment
from progdistill.run.estimate import read_prices
from tests.end_to_end.conftest import finished
from tests.end_to_end.running import FLOW, environment, report_of
from tests.schedules.conftest import compile_flow, datastore

__all__ = ["finished"]

TEXT = (Path(__file__).parents[2] / "docs" / "schedules.md").read_text()
COMMANDS = re.findall(r"(?m)^    (\S.*)$", TEXT)
FILES = re.findall(r"```toml\n(.*?)```", TEXT, flags=re.S)

ELSEWHERE = {
    "python flows/distill_flow.py run --reproduce production --updates-per-stage 1000": (
        "end_to_end/test_reproduce.py"
    ),
    "python flows/distill_flow.py --datastore s3 resume --origin-run-id RUN": "schedules/test_pods.py",
}
"""Commands that take minutes, and the tests that run them."""


def test_the_deployment_shown_is_understood_and_its_defaults_are_those_said() -> None:
    shown, default = parse_deployment(FILES[0]), DeploymentSettings()
    assert (shown.cron, shown.options["reproduce"]) == (default.cron, default.options["reproduce"])
    assert shown.pod_of("start") == PodSettings()
    assert shown.pod_of("distill").timeout_minutes == default.pod_of("distill").timeout_minutes
    said = {"train_base": 28, "distill": 14, "evaluate_fid": 2, "plan_evaluation": 1}
    days = {step: default.pod_of(step).timeout_minutes / 60 / 24 for step in said}
    assert days == said


def test_the_deployment_shown_compiles(flows_bucket: str, tmp_path: Path) -> None:
    (command,) = [line for line in COMMANDS if line.endswith("create --only-json")]
    assert command.startswith("python flows/distill_flow.py --config deployment deployment.toml ")
    (tmp_path / "deployment.toml").write_text(FILES[0])
    done = compile_flow(flows_bucket, tmp_path, "--config", "deployment", "deployment.toml")
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["kind"] == "WorkflowTemplate"


def test_the_prices_shown_are_understood(tmp_path: Path) -> None:
    (tmp_path / "progdistill.toml").write_text(FILES[1])
    assert read_prices(tmp_path / "progdistill.toml").per_device_hour == {"NVIDIA H100 80GB HBM3": 2.9}


@pytest.fixture(scope="module")
def folder(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the folder of a finished run with students of 2 and 1 steps."""
    copy = tmp_path_factory.mktemp("guide") / "work"
    shutil.copytree(finished, copy, symlinks=True)
    return copy


@pytest.mark.slow
def test_the_commands_for_the_store_work_in_their_order(folder: Path) -> None:
    run_id = report_of(folder)["run_id"]
    for line in COMMANDS:
        if not line.startswith("progdistill "):
            continue
        words = shlex.split(line.replace("RUN/4", "RUN/2").replace("RUN", run_id))
        done = subprocess.run(
            [sys.executable, "-m", "progdistill.cli.main", *words[1:]],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}: {done.stderr[-1000:]}"
        if "plan" in words:
            assert "reproduces production" in done.stdout and "training on 1 × cpu" in done.stdout


def test_runs_are_triggered_with_options_that_argo_is_told_of(flows_bucket: str, tmp_path: Path) -> None:
    for line in [line for line in COMMANDS if "trigger" in line]:
        words = shlex.split(line)[2:]
        done = subprocess.run(
            [sys.executable, str(FLOW), *words, "--help"],
            cwd=tmp_path,
            env=datastore(flows_bucket),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-1000:]
        assert all(word in done.stdout for word in words if word.startswith("--") and word != "--datastore")


def test_every_command_is_run_by_some_test() -> None:
    known = ("progdistill ", "trigger", "create --only-json")
    rest = [line for line in COMMANDS if not any(word in line for word in known)]
    assert set(rest) == ELSEWHERE.keys()
