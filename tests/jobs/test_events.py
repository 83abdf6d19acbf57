"""Events in the output of a worker, and in the run's folder."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from progdistill.jobs.events import (
    PREFIX,
    Event,
    EventFile,
    JobEvent,
    TrainingEvent,
    emit,
    parse_event,
    suppress_errors,
)

NOW = datetime(2026, 1, 2, tzinfo=UTC)
TRAINING = TrainingEvent(
    at=NOW,
    job_id="a" * 64,
    label="student of 4 steps",
    update=50,
    updates=200,
    loss=0.25,
    images_per_second=640.0,
    remaining_seconds=15.0,
    samples_key="live/aaaa/samples.png",
)
FOUND = JobEvent(at=NOW, job_id="a" * 64, label="base model", state="found")


@pytest.mark.parametrize("event", [TRAINING, FOUND])
@pytest.mark.parametrize("before", ["", "[rank 0] ", "2026-01-02T00:00:00Z "])
def test_what_a_worker_says_is_what_a_launcher_hears(
    event: Event, before: str, capsys: pytest.CaptureFixture[str]
) -> None:
    emit(event)
    assert parse_event(before + capsys.readouterr().out) == event


@pytest.mark.parametrize(
    "line", ["student of 4 steps:  25% · 50/200 updates\n", "", PREFIX, PREFIX + TRAINING.model_dump_json()[:-30]]
)
def test_lines_for_people_and_lines_cut_off_are_no_events(line: str) -> None:
    assert parse_event(line) is None


def test_a_worker_of_a_later_version_may_say_more() -> None:
    said = json.loads(TRAINING.model_dump_json()) | {"temperature": 300}
    assert parse_event(PREFIX + json.dumps(said)) == TRAINING


def test_the_file_holds_one_line_of_json_an_event(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "1" / "events.jsonl"
    for event in (FOUND, TRAINING):
        EventFile(path)(event)
    kinds = [json.loads(line)["kind"] for line in path.read_text().splitlines()]
    assert kinds == ["job", "training"]


def test_a_file_that_cannot_be_written_stops_nothing_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    listener = suppress_errors(EventFile(tmp_path / "runs" / "events.jsonl"))
    listener(FOUND)
    listener(TRAINING)
    assert caplog.text.count("some job events were dropped") == 1
    (tmp_path / "runs").unlink()
    listener(TRAINING)
    assert (tmp_path / "runs" / "events.jsonl").read_text().count("training") == 1
