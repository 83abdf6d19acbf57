"""An interrupted worker exits with 130, however many signals it gets; it runs only jobs of its world size."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from progdistill.data.dataset import DatasetInfo
from progdistill.errors import ProgdistillError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.jobs import worker
from progdistill.jobs.spec import JobRequest, JobSpec, PrepareEvaluatorSpec, TrainBaseSpec
from progdistill.store.base import Store
from tests.jobs.asking import request_for
from tests.training.conftest import settings, tiny

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def request_of(store: Store, digits: DatasetInfo) -> Callable[[str], JobRequest]:
    specs: dict[str, JobSpec] = {
        "measuring": PrepareEvaluatorSpec(
            dataset_fingerprint=digits.fingerprint, seed=0, evaluation=EvaluationSettings()
        ),
        "training": TrainBaseSpec(dataset_fingerprint=digits.fingerprint, seed=0, model=tiny(), training=settings(1)),
    }
    return lambda kind: request_for(specs[kind], store, digits)


@pytest.mark.parametrize("second", SIGNALS)
@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_signal_while_a_measurement_is_left_changes_nothing(
    first: signal.Signals,
    second: signal.Signals,
    request_of: Callable[[str], JobRequest],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def measured(*_: object) -> None:
        try:
            signal.raise_signal(first)
        finally:
            signal.raise_signal(second)

    monkeypatch.setattr(worker, "run_job", measured)
    assert worker.work(request_of("measuring")) == 130
    for number in SIGNALS:
        signal.raise_signal(number)  # on the way out
    said = caplog.text
    assert said.count("what is finished is kept") == 1 and "Traceback" not in said


@pytest.mark.parametrize("kind", ["measuring", "training"])
@pytest.mark.parametrize(("failure", "status"), [(None, 0), (ProgdistillError("no"), 1), (ValueError("no"), 1)])
def test_signals_after_the_work_do_not_change_how_it_ended(
    failure: Exception | None,
    status: int,
    kind: str,
    request_of: Callable[[str], JobRequest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def done(*_: object) -> None:
        if failure is not None:
            raise failure

    monkeypatch.setattr(worker, "run_job", done)
    assert worker.work(request_of(kind)) == status
    for number in SIGNALS:
        signal.raise_signal(number)


def test_a_measurement_that_drops_what_the_signal_raised_ends_all_the_same() -> None:
    """As Python itself does while it clears an object away."""
    program = """if True:
        import signal, time
        import threading
        from progdistill.jobs import worker
        from progdistill.signals import StopSignals

        worker.DRIVER_CHECK_SECONDS = worker.UNWIND_SECONDS = 0.5
        with StopSignals(once=True) as signals:
            watch = (None, signals, threading.Event(), True)
            threading.Thread(target=worker._watch, args=watch, daemon=True).start()
            try:
                signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt:
                print("dropped", flush=True)
            time.sleep(1000)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=250)
    assert (done.returncode, done.stdout) == (130, "dropped\n")
    assert "what is finished is kept" in done.stderr


def test_training_is_asked_to_stop_and_decides_itself(
    request_of: Callable[[str], JobRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def trained(request: JobRequest, rank: object, should_stop: Callable[[], bool]) -> None:
        asked.append(should_stop())
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        asked.append(should_stop())

    monkeypatch.setattr(worker, "run_job", trained)
    assert worker.work(request_of("training")) == 0
    assert asked == [False, True]


def test_a_signal_stops_no_training_by_what_it_says_to_nobody() -> None:
    """Nobody reads the output of a worker whose driver was killed."""
    program = """if True:
        import os
        from progdistill.jobs.worker import _announce_snapshot
        reading, writing = os.pipe()
        os.close(reading)
        os.dup2(writing, 2)
        _announce_snapshot(15)
    """
    assert subprocess.run([sys.executable, "-c", program], timeout=250).returncode == 0


@pytest.mark.parametrize("kind", ["measuring", "training"])
@pytest.mark.parametrize("world_size", ["2", "0", "many"])
def test_ranks_of_somebody_else_are_refused_at_once(
    world_size: str,
    kind: str,
    request_of: Callable[[str], JobRequest],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    foreign = {"RANK": "0", "WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29591"}
    for name, value in foreign.items():
        monkeypatch.setenv(name, value)
    assert worker.work(request_of(kind)) == 2
    assert f"WORLD_SIZE is {world_size}, but this job has 1 rank:" in caplog.text
