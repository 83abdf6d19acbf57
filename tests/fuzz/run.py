"""Runs targets on input in a worker, and notices every way in which that can go wrong."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

CPU_SECONDS = 20.0
"""Processor time for one input; what takes longer hangs."""
WALL_SECONDS = 300.0
RESIDENT_BYTES = 1_500_000_000
"""Memory that one input may add to that of the process."""


class Worker:
    """A process that reads input; started again after it was killed, or has become large."""

    def __init__(self, folder: Path) -> None:
        self._errors = folder / "stderr"
        self._process: subprocess.Popen[bytes] | None = None
        self._resident = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def problem(self, target: str, folder: Path) -> str | None:
        """What is wrong with how the target reads this folder; None: nothing."""
        process = self._process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        os.truncate(self._errors, 0)
        request = json.dumps({"target": target, "folder": str(folder.absolute())}) + "\n"
        process.stdin.write(request.encode())
        process.stdin.flush()
        started, cpu = time.monotonic(), _cpu_seconds(process.pid)
        while not select.select([process.stdout], [], [], 0.5)[0]:
            used = _cpu_seconds(process.pid) - cpu
            if used > CPU_SECONDS or time.monotonic() - started > WALL_SECONDS:
                self._stop()
                return f"it hangs: {used:.0f} s of processor time\n{self._printed()}"
        reply = process.stdout.readline()
        if not reply:
            status = process.wait()
            self._stop()
            return f"it kills the process: {_ending(status)}\n{self._printed()}"
        answer = json.loads(reply)
        added, self._resident = answer["resident"] - self._resident, answer["resident"]
        if self._resident > RESIDENT_BYTES:
            self._stop()
        if added > RESIDENT_BYTES:
            return f"it takes {added / 1e9:.1f} GB of memory"
        printed = self._printed()
        return answer["problem"] or (printed if "Traceback (most recent call last)" in printed else None)

    def _start(self) -> "subprocess.Popen[bytes]":
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        with open(self._errors, "wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **limits, "MALLOC_ARENA_MAX": "2"},
                start_new_session=True,
            )
        self._resident = 10**12  # the first input is not measured: it loads modules
        return process

    def _stop(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
            self._process = None

    def _printed(self) -> str:
        return self._errors.read_text(errors="replace")[-20_000:]


def _ending(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _cpu_seconds(pid: int) -> float:
    """Processor time of a process and its finished children."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def copy_of(seeds: Path, folder: Path, changes: Path | None = None) -> Path:
    """A fresh copy of a target's unharmed input, with the files of a case in the place of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(seeds, folder)
    if changes is not None:
        shutil.copytree(changes, folder, dirs_exist_ok=True)
    return folder
