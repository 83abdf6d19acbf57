"""A run's progress in the store, and `progdistill watch`, which shows it."""

import json
import re
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from progdistill.cli.main import main
from progdistill.jobs.events import Event, JobEvent, TrainingEvent
from progdistill.run.metrics import METRICS
from progdistill.run.progress_record import MOST_LOSSES, ProgressRecord, newest_run, progress_of
from progdistill.store.base import Store
from progdistill.store.layout import live_samples_key, progress_key, report_key, snapshots_prefix
from progdistill.store.open import open_store

BASE, STUDENT = "a" * 64, "b" * 64
BEGAN = datetime.now(UTC) - timedelta(seconds=60)


def job(state: str, job_id: str = BASE, label: str = "base model", after_seconds: float = 0) -> Event:
    at = BEGAN + timedelta(seconds=after_seconds)
    return JobEvent.model_validate({"at": at, "job_id": job_id, "label": label, "state": state})


def trained(update: int, job_id: str = BASE, label: str = "base model", **changes: object) -> TrainingEvent:
    event = TrainingEvent(
        at=BEGAN + timedelta(seconds=update),
        job_id=job_id,
        label=label,
        update=update,
        updates=200,
        loss=1 / update,
        images_per_second=640.0,
        remaining_seconds=200.0 - update,
        samples_key=live_samples_key(job_id),
        seconds=float(update),
        world_size=2,
        device="cpu",
        model_flops_utilization=0.125,
    )
    return event.model_copy(update=changes)


def record(store: Store, *events: Event, run_id: str = "7") -> ProgressRecord:
    """Tell a run's record of some events."""
    kept = ProgressRecord(store, "DistillFlow", run_id, "digits", (4, 2, 1))
    for event in events:
        kept(event)
    return kept


@pytest.fixture
def half_way(store: Store) -> Store:
    """The base model is done, a student trains, and there are current samples."""
    record(store, job("started"), trained(200), job("finished", after_seconds=40))
    record(store, job("started", STUDENT, "student of 2 steps", 41), trained(50, STUDENT, "student of 2 steps"))
    record(store, trained(60, STUDENT, "student of 2 steps"))
    store.write(live_samples_key(STUDENT), b"\x89PNG the samples")
    return store


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_processes_of_one_run_continue_each_others_record(half_way: Store) -> None:
    base, student = progress_of(half_way, "DistillFlow", "7")
    assert (base.state, base.device_seconds, base.ladder) == ("finished", 400.0, (4, 2, 1))
    assert (student.state, student.losses) == ("started", ((50, 1 / 50), (60, 1 / 60)))


def test_a_restarted_worker_adds_its_time_to_that_of_the_one_before(store: Store) -> None:
    record(store, trained(100), trained(80, seconds=5.0), trained(90, seconds=15.0))
    assert progress_of(store, "DistillFlow", "7")[0].device_seconds == 200.0 + 30.0


def test_a_long_loss_curve_is_thinned_and_keeps_its_newest_point(store: Store) -> None:
    record(store, *(trained(update) for update in range(1, MOST_LOSSES + 9)))
    losses = progress_of(store, "DistillFlow", "7")[0].losses
    assert len(losses) <= MOST_LOSSES and losses[-1][0] == MOST_LOSSES + 8


def test_damaged_progress_is_begun_anew(store: Store) -> None:
    store.write(progress_key("DistillFlow", "7", BASE), b"{")
    assert progress_of(store, "DistillFlow", "7") == []
    record(store, trained(10))
    assert progress_of(store, "DistillFlow", "7")[0].training == trained(10)


def test_the_newest_run_is_the_one_heard_of_last(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    assert newest_run(store) is None
    record(store, job("started"), run_id="9")
    record(store, job("started"), run_id="8")
    assert newest_run(store) == ("DistillFlow", "8")


def test_it_shows_state_rate_loss_cost_and_where_the_samples_are(
    half_way: Store, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "progdistill.toml").write_text('[prices]\ncurrency = "EUR"\ncpu = 36.0\n')
    assert main(["watch", "--once", "--store", half_way.uri, "--samples", "now.png"]) == 0
    head, base, student, spent, samples = capsys.readouterr().out.splitlines()
    assert head == "DistillFlow/7 · digits · 4 → 2 → 1"
    assert "done" in base and "200/200 updates" in base and "40s" in base
    assert "60/200 updates  loss 0.01667  640 images/s  MFU 12.5%  ETA 2m20s  █▁" in student
    assert "training so far: 0.14 device hours on cpu, 5.20 EUR" in spent
    assert samples.endswith(f"{half_way.uri}/{live_samples_key(STUDENT)}")
    assert (here / "now.png").read_bytes().startswith(b"\x89PNG")


def test_json_has_every_fact(half_way: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "DistillFlow/7", "--json", "--store", half_way.uri]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["ladder"] == [4, 2, 1] and facts["cost"] is None and facts["report"] is None
    assert [found["state"] for found in facts["jobs"]] == ["finished", "started"]


def test_it_ends_with_the_report(half_way: Store, capsys: pytest.CaptureFixture[str]) -> None:
    half_way.write(report_key("DistillFlow", "7"), b"<html>")
    assert main(["watch", "7", "--store", half_way.uri]) == 0
    assert f"report: {half_way.uri}/reports/DistillFlow/7/report.html" in capsys.readouterr().out


def test_it_ends_with_a_failure_and_how_to_resume(half_way: Store, capsys: pytest.CaptureFixture[str]) -> None:
    record(half_way, job("failed", STUDENT, "student of 2 steps", 70))
    assert main(["watch", "7", "--store", half_way.uri]) == 1
    said = capsys.readouterr()
    assert "failed or interrupted" in said.out and "progdistill resume --origin-run-id 7" in said.err
    assert main(["watch", "7", "--once", "--store", half_way.uri, "--samples", "now.png"]) == 0
    said = capsys.readouterr()
    assert "progdistill resume --origin-run-id 7" in said.out and "now.png was not written" in said.err


def test_a_job_without_news_says_for_how_long(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    record(store, trained(10, at=datetime.now(UTC) - timedelta(hours=2)))
    assert main(["watch", "--once", "--store", store.uri]) == 0
    assert "no news for 2h00m" in capsys.readouterr().out


def test_an_unknown_run_is_refused_with_the_known_ones(half_way: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "99", "--store", half_way.uri]) == 2
    assert "there are DistillFlow/7" in capsys.readouterr().err
    assert main(["watch", "--store", half_way.uri, "--interval", "0"]) == 2


def test_a_store_without_runs_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch"]) == 2
    assert "no run in store" in capsys.readouterr().err


LABELS = '{run="DistillFlow/7",dataset="digits",job="student of 2 steps"}'


def test_the_metrics_of_a_run_are_in_prometheus_format(half_way: Store, here: Path) -> None:
    half_way.write(f"{snapshots_prefix(STUDENT)}40/manifest.json", b"{}")
    record(half_way, trained(5, STUDENT, "student of 2 steps"))  # its workers began anew
    assert main(["watch", "--store", half_way.uri, "--once", "--metrics", "run.prom"]) == 0
    text = (here / "run.prom").read_text()
    line = re.compile(r'# (HELP|TYPE) progdistill_[a-z_]+ .+|progdistill_[a-z_]+\{(\w+="[^"]*",?)+\} [-+.e\d]+')
    assert text.endswith("\n") and all(line.fullmatch(one) for one in text.splitlines())
    values = dict(one.rsplit(" ", 1) for one in text.splitlines() if LABELS in one)
    found = {name.removeprefix("progdistill_").partition("{")[0]: float(value) for name, value in values.items()}
    assert found["update"] == 5 and found["updates"] == 200 and found["restarts"] == 1 and found["job_running"] == 1
    assert abs(found["last_snapshot_timestamp_seconds"] - datetime.now(UTC).timestamp()) < 3600
    assert found.keys() == {metric.name for metric in METRICS}


def test_metrics_are_pushed_and_a_gateway_that_is_away_is_named(
    half_way: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    class Gateway(BaseHTTPRequestHandler):
        got: list[tuple[str, str]] = []

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self.got.append((self.path, body))
            self.send_response(202)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        assert main(["watch", "--store", half_way.uri, "--once", "--metrics", url]) == 0
        server.shutdown()
    [(path, body)] = Gateway.got
    assert path == "/metrics/job/progdistill" and f"progdistill_loss{LABELS}" in body
    assert main(["watch", "--store", half_way.uri, "--once", "--metrics", url]) == 1
    assert "did not take the metrics" in capsys.readouterr().err


def test_metrics_go_to_no_other_kind_of_address_and_no_password_is_repeated(
    half_way: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    for url, message in (("file:///etc/passwd", "give a file, or"), ("http://me:hunter2@localhost/", "has a user")):
        assert main(["watch", "--store", half_way.uri, "--once", "--metrics", url]) == 2
        said = capsys.readouterr().err
        assert message in said and "hunter2" not in said
