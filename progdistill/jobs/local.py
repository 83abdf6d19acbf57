"""The local launcher: a job as a child process of the step, or as several when it has more than one rank."""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Final

from progdistill.errors import Interrupted, NonFiniteError, ProgdistillError, UsageError
from progdistill.jobs.events import Listener, ignore, parse_event
from progdistill.jobs.forkserver import VARIABLE, ForkedWorker, fork_worker
from progdistill.jobs.spec import JobRequest
from progdistill.logs import for_people
from progdistill.progress import is_progress
from progdistill.signals import StopSignals, record
from progdistill.training.accelerators import kind_for

LAST_LINES: Final = 15

RANK_VARIABLES: Final = (
    *("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
)
"""What torchrun sets for a process: a job has ranks of its own."""

Worker = subprocess.Popen[bytes] | ForkedWorker

logger = logging.getLogger(__name__)


class JobLog:
    """A job's output: events go to `on_event`, other lines to a file and to the logger. Thread-safe.

    Other drivers of the job may append to the file as well. A full disk costs the file, never the job.
    """

    def __init__(self, path: Path, on_event: Listener) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path.absolute()
        self._on_event, self._lock = on_event, threading.Lock()
        self._is_writable, self._once = True, set[tuple[str, str]]()

    def feed(self, line: str) -> str | None:
        """Deliver the event in a worker's line, and return None; write a line without one, and return its text."""
        event = parse_event(line)
        if event is None:
            self.write(line)
        else:
            with self._lock:
                self._on_event(event)
        return for_people(line) if event is None else None

    def write(self, line: str) -> None:
        """Write one line, given without its end."""
        with self._lock:
            if self._is_writable:
                try:
                    with self.path.open("a") as file:
                        file.write(f"{line}\n")
                except OSError as error:
                    self._is_writable = False
                    reason = error.strerror
                    logger.warning("cannot write log file %s (%s); logging to stderr only", self.path, reason)
            logger.info("%s", line)

    def write_once(self, line: str, about: str = "") -> None:
        """Write a line unless the same has been written, about the same pod."""
        if (line, about) not in self._once:
            self._once.add((line, about))
            self.write(line)


class LocalLauncher:
    """Runs jobs on this machine. Each job's request and log are files in `folder`.

    Events of workers go to `on_event`, their other output to the log.
    """

    def __init__(self, folder: Path, on_event: Listener = ignore) -> None:
        self._folder, self._on_event = folder, on_event

    def launch(self, request: JobRequest) -> None:
        """See Launcher.launch. SIGINT and SIGTERM are forwarded to the worker, which saves a snapshot."""
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"{request.spec.kind}-{request.spec.id[:12]}"
        path, log = self._folder / f"{name}.json", JobLog(self._folder / f"{name}.log", self._on_event)
        path.write_text(request.model_dump_json(indent=2))
        reading, writing = os.pipe()
        with StopSignals(record) as signals, os.fdopen(reading, errors="replace") as output:
            try:
                child = _start(request, path, writing)
            finally:
                os.close(writing)
            signals.action = child.send_signal
            for number in signals.received:  # while it was started
                child.send_signal(number)
            fed = (log.feed(line.rstrip("\n")) for line in output)
            said = (text for text in fed if text is not None and not is_progress(text))
            last = deque(said, maxlen=LAST_LINES)
            status = child.wait()
        if -status in signals.received:  # before it handled signals
            raise Interrupted(f"{request.spec.label}: interrupted before start")
        if status != 0:
            raise _failure(request, status, "\n".join(last).strip(), log.path)


def _start(request: JobRequest, path: Path, output: int) -> Worker:
    environment = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    module = "worker" if request.spec.world_size == 1 else "agent"
    if kind_for(request.compute) == "tpu":  # its library reads the environment when torch is imported
        environment.pop(VARIABLE, None)
    elif module == "worker" and (forked := fork_worker(str(path), environment, output)) is not None:
        return forked
    command = [sys.executable, "-P", "-m", f"progdistill.jobs.{module}", str(path)]
    return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)


def _failure(request: JobRequest, status: int, last_lines: str, log: Path) -> ProgdistillError:
    if status == UsageError.exit_status:
        return UsageError(last_lines)
    if status == Interrupted.exit_status:
        return Interrupted(last_lines)
    if status == NonFiniteError.exit_status:
        return NonFiniteError(f"{last_lines}\nIts log is {log}")
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"failed with exit status {status}"
    return ProgdistillError(f"{request.spec.label} {how}; its log is {log}. Last lines:\n{last_lines}")
