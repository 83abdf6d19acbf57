"""Workers forked by a nursery behave as workers started afresh; the nursery never outlives its starter."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from progdistill.jobs.forkserver import VARIABLE, HatchedWorker, hatch, nursery, short_path

MISSING = "/nowhere/request.json"

STARTER_THAT_KILLS_ITS_NURSERY = """
import os, signal, sys
from progdistill.jobs.forkserver import _start_at, VARIABLE, hatch
server = _start_at(sys.argv[1])
os.environ[VARIABLE] = sys.argv[1]
worker = hatch([sys.argv[2]])
server.kill(); server.wait()
print(hatch([sys.argv[2]]), worker.poll(), flush=True)
with open(sys.argv[2], "w") as request: request.write("{}")
worker.stdout.read()
print(worker.wait())
"""


def hatch_at(address: str) -> object:
    os.environ[VARIABLE] = address
    try:
        return hatch([MISSING])
    finally:
        del os.environ[VARIABLE]


def test_a_forked_worker_says_why_it_failed_and_with_which_status() -> None:
    with nursery():
        worker = hatch([MISSING])
        assert worker is not None
        words, status = worker.stdout.read(), worker.wait()
    assert status == 1 and MISSING in words


def test_a_killed_worker_is_reported_as_killed() -> None:
    with nursery():
        worker = hatch(["/dev/stdin"])
        assert worker is not None
        worker.send_signal(signal.SIGKILL)
        assert worker.wait() == -signal.SIGKILL


def test_without_a_nursery_nothing_is_hatched(tmp_path: Path) -> None:
    assert hatch([MISSING]) is None
    assert hatch_at(str(tmp_path / "gone")) is None


def test_the_nursery_ends_when_its_starter_is_killed() -> None:
    code = (
        "import os, signal\n"
        "from progdistill.jobs.forkserver import VARIABLE, hatch, nursery\n"
        "with nursery():\n"
        "    worker = hatch(['/nowhere']); worker.wait()\n"
        "    print(os.environ[VARIABLE], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # Its standard error is inherited: communicate returns only when the nursery has closed it too.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250)
    assert done.returncode == -signal.SIGKILL
    assert not Path(done.stdout.strip()).exists() or hatch_at(done.stdout.strip()) is None


def test_a_worker_tells_how_it_ended_though_its_nursery_was_killed(tmp_path: Path) -> None:
    """Nor does it keep others waiting for the nursery while it lives."""
    os.mkfifo(tmp_path / "request")
    done = subprocess.run(
        [sys.executable, "-c", STARTER_THAT_KILLS_ITS_NURSERY, tmp_path / "nursery", tmp_path / "request"],
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.stdout.split() == ["None", "None", "1"], done.stderr


def test_nothing_is_hatched_where_the_nursery_ends_before_it_has_listened(tmp_path: Path) -> None:
    address = str(tmp_path / "nursery")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with short_path(address) as path:
        listener.bind(path)
    listener.listen()
    threading.Timer(0.2, listener.close).start()
    assert hatch_at(address) is None


def test_an_order_too_long_for_a_message_hatches_nothing_and_harms_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with nursery():
        with monkeypatch.context() as long:
            for number in range(5):
                long.setenv(f"LONG_{number}", "x" * 100_000)
            assert hatch([MISSING]) is None
        worker = hatch([MISSING])
        assert worker is not None and worker.wait() == 1


@pytest.mark.parametrize("status", [0, 2, -signal.SIGKILL])
def test_a_signal_while_the_status_is_waited_for_loses_nothing(status: int) -> None:
    """Its handler asks for the status itself, before there is one or when it has just come."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe()
    os.close(writing)
    worker = HatchedWorker(here, reading, pid=0)
    asked: list[int | None] = []

    def ask(number: int, frame: object) -> None:
        asked.append(worker.poll())
        there.send(f'{{"status": {status}}}'.encode())
        asked.append(worker.poll())
        there.close()

    before = signal.signal(signal.SIGALRM, ask)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        assert worker.wait() == status
    finally:
        signal.signal(signal.SIGALRM, before)
    assert asked == [None, status] and worker.poll() == status
    here.close()
    worker.stdout.close()


def test_a_temporary_folder_may_be_too_deep_for_the_path_of_a_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with nursery():
        worker = hatch([MISSING])
        assert worker is not None and worker.wait() == 1
    assert list(deep.iterdir()) == []


def test_a_temporary_folder_that_is_gone_costs_only_the_nursery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile.TemporaryDirectory, "__enter__", lambda self: f"{self.name}/gone")
    with nursery():
        assert hatch([MISSING]) is None
