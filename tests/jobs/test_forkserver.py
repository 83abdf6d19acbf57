"""Forked workers behave like workers in new processes; the fork server does not outlive its parent."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from progdistill.jobs.forkserver import VARIABLE, ForkedWorker, fork_server, fork_worker

MISSING = "/nowhere/request.json"


@pytest.fixture(scope="module")
def started() -> Iterator[str]:
    """A fork server that several tests share, outside of the environment."""
    with fork_server():
        path = os.environ.pop(VARIABLE)
        yield path
        os.environ[VARIABLE] = path


@pytest.fixture
def server(started: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, started)


def fork(request: str = MISSING, output: int = 2) -> ForkedWorker | None:
    return fork_worker(request, dict(os.environ), output)


def test_a_forked_worker_reports_why_it_failed_and_with_which_status(server: None, tmp_path: Path) -> None:
    with open(tmp_path / "output", "w") as output:
        worker = fork(output=output.fileno())
        assert worker is not None and worker.wait() == 1
    assert MISSING in (tmp_path / "output").read_text()


def test_a_killed_worker_is_reported_as_killed(server: None, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "request")
    worker = fork(str(tmp_path / "request"))
    assert worker is not None and worker.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(timeout=0.01)
    worker.send_signal(signal.SIGKILL)
    assert worker.wait() == worker.poll() == -signal.SIGKILL


def test_a_worker_does_not_outlive_the_process_that_waits_for_it(server: None, tmp_path: Path) -> None:
    """Which the kernel may kill, too: whoever is told that a worker was killed may start another one."""
    os.mkfifo(tmp_path / "request")
    reading, writing = os.pipe()
    worker = fork(str(tmp_path / "request"), writing)
    os.close(writing)
    assert worker is not None
    os.kill(int(Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
    assert worker.wait() == -signal.SIGKILL
    assert os.read(reading, 1) == b""  # nobody can write to it any more
    os.close(reading)


def test_a_rank_has_a_process_group_of_its_own(server: None, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "request")
    rank = fork_worker(str(tmp_path / "request"), dict(os.environ), 2, group=True)
    assert rank is not None and os.getpgid(rank.pid) == rank.pid
    os.killpg(rank.pid, signal.SIGTERM)
    assert rank.wait() != 0


def test_a_fork_server_within_another_is_the_same(server: None) -> None:
    path = os.environ[VARIABLE]
    with fork_server():
        assert os.environ[VARIABLE] == path
    worker = fork()
    assert worker is not None and worker.wait() == 1


def test_what_the_fork_server_imports_does_not_call_cuda() -> None:
    """In a process forked after such a call CUDA cannot be used."""
    program = """if True:
        import torch
        from progdistill.jobs.forkserver import import_worker
        def refuse(*_): raise AssertionError("CUDA was called")
        for name in ("is_available", "device_count", "current_device", "init", "_lazy_init"):
            setattr(torch.cuda, name, refuse)
        import_worker()
    """
    subprocess.run([sys.executable, "-c", program], check=True, timeout=250)


def test_without_a_fork_server_nothing_is_forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fork() is None
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone"))
    assert fork() is None


def test_the_fork_server_ends_when_its_starter_is_killed() -> None:
    code = (
        "import os, signal\n"
        "from progdistill.jobs.forkserver import VARIABLE, fork_server, fork_worker\n"
        "with fork_server():\n"
        "    worker = fork_worker('/nowhere', dict(os.environ), 2); worker.wait()\n"
        "    print(os.environ[VARIABLE], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # Its standard error is inherited: communicate returns only when the fork server has closed it too.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250)
    assert done.returncode == -signal.SIGKILL
    os.environ[VARIABLE] = done.stdout.strip()
    try:
        assert fork() is None
    finally:
        del os.environ[VARIABLE]


def test_a_worker_reports_how_it_ended_though_its_fork_server_was_killed(tmp_path: Path) -> None:
    """Nor do others wait for the fork server while the worker lives."""
    os.mkfifo(tmp_path / "request")
    program = f"""if True:
        import os, signal
        from progdistill.jobs import forkserver
        started = []
        class Popen(forkserver.Popen):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                started.append(self)
        forkserver.Popen = Popen
        request = {str(tmp_path / "request")!r}
        with forkserver.fork_server():
            reading, writing = os.pipe()
            worker = forkserver.fork_worker(request, dict(os.environ), writing)
            os.close(writing)
            started[0].kill(); started[0].wait()
            print(forkserver.fork_worker(request, dict(os.environ), 2), flush=True)
            with open(request, "w") as file: file.write("{{}}")
            while os.read(reading, 1000): pass
            print(worker.wait())
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=250)
    assert done.stdout.split() == ["None", "1"], done.stderr


def test_an_order_too_long_for_a_message_forks_nothing_and_harms_no_other(
    server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as long:
        for number in range(5):
            long.setenv(f"LONG_{number}", "x" * 100_000)
        assert fork() is None
    worker = fork()
    assert worker is not None and worker.wait() == 1


@pytest.mark.parametrize("folder", ["d" * 120, "gone"])
def test_a_temporary_folder_that_holds_no_socket_costs_only_the_fork_server(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if folder != "gone":
        (tmp_path / folder).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / folder))
    if folder == "gone":
        monkeypatch.setattr(tempfile.TemporaryDirectory, "__init__", _in_a_folder_that_is_gone)
        monkeypatch.setattr(tempfile.TemporaryDirectory, "__exit__", lambda *_: None)
    with fork_server():
        assert fork() is None


def _in_a_folder_that_is_gone(self: tempfile.TemporaryDirectory[str], prefix: str) -> None:
    self.name = f"/nowhere/{prefix}"
