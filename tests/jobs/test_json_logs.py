"""PROGDISTILL_LOG_FORMAT=json: each line of a job and of its driver is one object, and people still read text."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from progdistill.data.dataset import DatasetInfo
from progdistill.errors import ProgdistillError
from progdistill.jobs.events import JobEvent, emit, parse_event
from progdistill.jobs.local import LocalLauncher
from progdistill.jobs.result_cache import complete
from progdistill.jobs.spec import TrainBaseSpec
from progdistill.logs import LOG_FORMAT, as_line, for_people
from progdistill.store.base import Store
from tests.jobs.asking import base_of_two_ranks, request_for
from tests.jobs.test_distributed_jobs import finish_without_rank_1
from tests.training.conftest import settings, tiny


def objects(text: str) -> list[dict[str, Any]]:
    """All lines, each of which has what every line has."""
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
        assert line["level"] in {"INFO", "WARNING", "ERROR", "CRITICAL"}
        assert isinstance(line["logger"], str) and isinstance(line["message"], str)
    return lines


@pytest.mark.slow
def test_a_worker_says_which_job_it_does_and_its_error_is_text_for_people(
    store: Store, digits: DatasetInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOG_FORMAT, "json")
    training = settings(8, learning_rate=1e30)
    spec = TrainBaseSpec(dataset_fingerprint=digits.fingerprint, seed=1, model=tiny(), training=training)
    request = request_for(spec, store, digits)
    with pytest.raises(ProgdistillError, match="not finite") as failure:
        complete(store, LocalLauncher(tmp_path), request)
    lines = objects((tmp_path / f"train_base-{spec.id[:12]}.log").read_text())
    facts = {"job": spec.id, "stage": spec.label, "run": request.created_by, "rank": 0}
    assert lines and all(facts.items() <= line.items() for line in lines)
    assert lines[-1]["level"] == "ERROR" and "not finite" in lines[-1]["message"]
    assert '{"' not in str(failure.value)


@pytest.mark.slow
def test_every_line_of_ranks_and_their_agent_is_an_object(
    digits: DatasetInfo, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rank is killed: the agent speaks, too."""
    monkeypatch.setenv(LOG_FORMAT, "json")
    job = base_of_two_ranks(store, digits, seed=4)
    status, output = finish_without_rank_1(job, tmp_path)
    assert status == 0, output
    lines = objects(output)
    assert {line["job"] for line in lines} == {job.spec.id}
    restarts = [line for line in lines if "killed by SIGKILL" in line["message"]]
    assert [(line["level"], "rank" in line) for line in restarts] == [("WARNING", False)]
    assert {line["rank"] for line in lines if line not in restarts} >= {0}


def test_what_nobody_caught_and_warnings_are_objects() -> None:
    script = "import warnings; from progdistill import logs; logs.configure_logging(); warnings.warn('old'); open('')"
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, LOG_FORMAT: "json"}, capture_output=True, text=True
    )
    warning, error = objects(done.stderr)
    assert warning["logger"] == "py.warnings" and "old" in warning["message"]
    assert error["level"] == "CRITICAL" and "FileNotFoundError" in error["traceback"]


def test_an_event_is_a_field_of_its_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOG_FORMAT, "json")
    event = JobEvent(at=datetime.now(UTC), job_id="0", label="base λ", state="started")
    emit(event)
    said = capsys.readouterr().out
    assert parse_event(said.rstrip()) == event
    assert objects(said)[0]["event"]["state"] == "started"


def test_a_driver_keeps_what_its_job_said_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOG_FORMAT, "json")
    line = as_line("x\x1b\n2 λ", level="WARNING", job="a", rank=1)
    assert as_line(line, job="b") == line
    assert json.loads(line)["message"] == "x\\x1b\n2 λ"
    monkeypatch.delenv(LOG_FORMAT)
    assert as_line(line) == for_people(line) == "[rank 1] x\\x1b\n2 λ"


@pytest.mark.parametrize("line", ["", "{", '{"time": 1', '{"time": 1}', '{"time": "", "message": 3}', '{"time": []} x'])
def test_what_only_looks_like_such_a_line_is_a_message(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert as_line(line) == line and parse_event(line) is None
    monkeypatch.setenv(LOG_FORMAT, "json")
    assert json.loads(as_line(line))["message"] == line
