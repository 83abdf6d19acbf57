"""A container: a real child process in its own process group, and its log."""

import contextlib
import datetime
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.kubernetes_api.objects import now

MARK = "KUBERNETES_API_TEST_POD"
"""In the environment of all its processes: finds those that have left the process group."""


@dataclass
class PodLog:
    """The lines of a log with the times at which they were read, and whether more can come."""

    lines: list[tuple[datetime.datetime, bytes]] = field(default_factory=list)
    closed: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    def append(self, line: bytes) -> None:
        """Add a line."""
        with self.changed:
            self.lines.append((now(), line))
            self.changed.notify_all()

    def close(self) -> None:
        """Nothing more will come."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def read(self, *, follow: bool, since: datetime.datetime | None, timestamps: bool) -> Iterator[bytes]:
        """Lines as the API sends them; with `follow` until the container has ended.

        An empty piece comes now and then while nothing is logged, so that a reader can stop.
        """
        position = 0
        while True:
            with self.changed:
                if position == len(self.lines):
                    if self.closed or not follow:
                        return
                    self.changed.wait(0.5)
                ready, position = self.lines[position:], len(self.lines)
            for when, line in ready:
                if since is None or when >= since:
                    prefix = f"{when:%Y-%m-%dT%H:%M:%S.%fZ} ".encode() if timestamps else b""
                    yield prefix + line
            if not ready:
                yield b""


class Container:
    """A running process; `on_exit` is called once, when it has ended and its output is read."""

    def __init__(
        self,
        uid: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        log: PodLog,
        on_exit: Callable[[int], None],
    ) -> None:
        self.uid, self.log, self._folder = uid, log, folder.resolve()
        self.oom_killed = False
        self.evicted: str | None = None
        """Why the kubelet evicts it."""
        self.stopping = False
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env={**environment, MARK: uid},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._waiter = threading.Thread(target=self._wait, args=(on_exit,), daemon=True)
        self._timer: threading.Timer | None = None
        self._reader.start()
        self._waiter.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.log.append(line)

    def _wait(self, on_exit: Callable[[int], None]) -> None:
        code = self._process.wait()
        if self._timer is not None:
            self._timer.cancel()
        # When a container's first process ends, the kernel ends the others in its pid namespace.
        self._kill_all()
        self._reader.join()
        self.log.close()
        on_exit(code)

    def terminate(self, grace_seconds: float) -> None:
        """SIGTERM to the first process, and SIGKILL to all after the grace period."""
        if self.stopping and grace_seconds > 0:
            return
        self.stopping = True
        if grace_seconds <= 0:
            self.kill()
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        self._timer = threading.Timer(grace_seconds, self.kill)
        self._timer.daemon = True
        self._timer.start()
        if self._process.poll() is not None:
            self._timer.cancel()

    def kill(self) -> None:
        """SIGKILL to all its processes."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._kill_all()

    def join(self) -> None:
        """Wait until it has ended and was reported."""
        if threading.current_thread() is not self._waiter:
            self._waiter.join()

    def _kill_all(self) -> None:
        """Until a look finds none: one may have started another since, and SIGKILL takes a moment."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        while found := [entry for entry in Path("/proc").iterdir() if self._is_ours(entry)]:
            for entry in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(entry.name), signal.SIGKILL)

    def _is_ours(self, entry: Path) -> bool:
        """Whether it is a living process of the container, by its environment.

        That reads as empty for a moment while the process executes another program; its folder never does.
        """
        try:
            if not entry.name.isdigit():
                return False
            environment = (entry / "environ").read_bytes().split(b"\0")
            return f"{MARK}={self.uid}".encode() in environment or (entry / "cwd").readlink() == self._folder
        except OSError:
            return False
