"""Workers forked by a nursery behave as workers started afresh; the nursery never outlives its starter."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from progdistill.jobs.nursery import VARIABLE, hatch, nursery

MISSING = "/nowhere/request.json"


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
        "from progdistill.jobs.nursery import VARIABLE, hatch, nursery\n"
        "with nursery():\n"
        "    worker = hatch(['/nowhere']); worker.wait()\n"
        "    print(os.environ[VARIABLE], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # Its standard error is inherited: communicate returns only when the nursery has closed it too.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert not Path(done.stdout.strip()).exists() or hatch_at(done.stdout.strip()) is None
