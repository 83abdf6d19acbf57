"""The local launcher: the worker as a child process, or as several when there is more than one rank."""

import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from progdistill.errors import Interrupted, ProgdistillError, UsageError
from progdistill.jobs.events import Listener, deliver, ignore
from progdistill.jobs.forkserver import HatchedWorker, hatch
from progdistill.jobs.ranks import env_without_rank_vars
from progdistill.jobs.spec import JobRequest


class LogFile:
    """Appends lines to a file that another driver of the job may write too.

    A file that takes no more (a full disk) costs the log, never the job: it is said once, and lines go on
    to standard error.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path.absolute()
        self._is_writable = True

    def write(self, line: str) -> None:
        """Write one line, given without its end."""
        if self._is_writable:
            try:
                with self.path.open("a") as file:
                    file.write(f"{line}\n")
            except OSError as error:
                self._is_writable = False
                _say(f"{self.path} takes no more lines ({error.strerror}); they follow here only")
        _say(line)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


LAST_LINES = 15
Worker = subprocess.Popen[str] | HatchedWorker


class LocalLauncher:
    """Runs jobs on this machine; requests and logs are kept in `folder`, one of each a job.

    What workers say for programs goes to `on_event`, the rest to the log and to standard error.
    """

    def __init__(self, folder: Path, on_event: Listener = ignore) -> None:
        self._folder, self._on_event = folder, on_event

    def launch(self, request: JobRequest) -> None:
        """See Launcher.launch. SIGINT and SIGTERM go on to the worker, which saves where it stands."""
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"{request.spec.kind}-{request.spec.id[:12]}"
        path = self._folder / f"{name}.json"
        path.write_text(request.model_dump_json(indent=2))
        log = LogFile(self._folder / f"{name}.log")
        child = self._start(request, path)
        previous = {number: signal.signal(number, _forward_to(child)) for number in _STOP_SIGNALS}
        try:
            last = self._stream(child, log)
            status = child.wait()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        if status != 0:
            raise _failure(request, status, last, log.path)

    def _start(self, request: JobRequest, path: Path) -> Worker:
        worker = ["-m", "progdistill.jobs.worker", str(path)]
        if request.spec.world_size == 1:
            hatched = hatch([str(path)])
            if hatched is not None:
                return hatched
        else:
            worker = ["-m", "progdistill.jobs.ranks", str(request.spec.world_size), str(path)]
        return subprocess.Popen(
            [sys.executable, *worker],
            env=env_without_rank_vars(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def _stream(self, child: Worker, log: LogFile) -> list[str]:
        last: deque[str] = deque(maxlen=LAST_LINES)
        assert child.stdout is not None
        for line in child.stdout:
            if deliver(line, self._on_event):
                continue
            last.append(line)
            log.write(line.rstrip("\n"))
        return list(last)


_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _forward_to(child: Worker) -> Callable[[int, FrameType | None], None]:
    def forward(number: int, frame: FrameType | None) -> None:
        if child.poll() is None:
            child.send_signal(number)

    return forward


def _failure(request: JobRequest, status: int, last: list[str], log: Path) -> ProgdistillError:
    words = "".join(last).strip()
    if status == UsageError.exit_status:
        return UsageError(words)
    if status == Interrupted.exit_status:
        return Interrupted(words)
    how = (
        f"was killed by {signal.Signals(-status).name}" if status < 0 else f"failed with exit status {status}"
    )
    return ProgdistillError(f"{request.spec.label} {how}; its log is {log}. Last lines:\n{words}")
