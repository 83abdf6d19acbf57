"""Forked workers behave like workers in new processes; the fork server does not outlive its parent."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from progdistill.jobs.forkserver import VARIABLE, ForkedWorker, fork_server, fork_worker

MISSING = "/nowhere/request.json"


def fork(request: str = MISSING) -> ForkedWorker | None:
    return fork_worker(request, dict(os.environ))


def test_a_forked_worker_reports_why_it_failed_and_with_which_status() -> None:
    with fork_server():
        worker = fork()
        assert worker is not None
        output, status = worker.stdout.read(), worker.wait()
    assert status == 1 and MISSING in output


def test_a_killed_worker_is_reported_as_killed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "request")
    with fork_server():
        worker = fork(str(tmp_path / "request"))
        assert worker is not None
        worker.send_signal(signal.SIGKILL)
        assert worker.wait() == -signal.SIGKILL


def test_without_a_fork_server_nothing_is_forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fork() is None
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone"))
    assert fork() is None


def test_the_fork_server_ends_when_its_starter_is_killed() -> None:
    code = (
        "import os, signal\n"
        "from progdistill.jobs.forkserver import VARIABLE, fork_server, fork_worker\n"
        "with fork_server():\n"
        "    worker = fork_worker('/nowhere', dict(os.environ)); worker.wait()\n"
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
            worker = forkserver.fork_worker(request, dict(os.environ))
            started[0].kill(); started[0].wait()
            print(forkserver.fork_worker(request, dict(os.environ)), flush=True)
            with open(request, "w") as file: file.write("{{}}")
            worker.stdout.read()
            print(worker.wait())
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=250)
    assert done.stdout.split() == ["None", "1"], done.stderr


def test_an_order_too_long_for_a_message_forks_nothing_and_harms_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with fork_server():
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
