"""Follows the logs of a job's pods: the first rank's lines as they are, the others' with their rank."""

import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from progdistill.errors import ProgdistillError, TransientError
from progdistill.jobs.events import Listener, deliver
from progdistill.jobs.kubernetes_api import ClusterApi, NotReadyError, NotThereError
from progdistill.jobs.kubernetes_manifest import CONTAINER
from progdistill.jobs.log_file import LogFile

LAST_LINES: Final = 15
READ_SECONDS: Final = 300.0
PAUSE_SECONDS: Final = 0.5


class JobLog:
    """What the driver writes of a job: lines to a file and to standard error, events to a listener."""

    def __init__(self, path: Path, on_event: Listener) -> None:
        self._on_event = on_event
        self._file = LogFile(path)
        self.path = self._file.path
        self._lock = threading.Lock()

    def hear(self, line: str) -> bool:
        """Whether a line of a pod was an event, which the listener has then got."""
        with self._lock:
            return deliver(line, self._on_event)

    def write(self, line: str) -> None:
        """Write one line."""
        with self._lock:
            self._file.write(line)


class PodLog:
    """A thread that follows a pod's log to its end, across broken connections, without gap or repetition."""

    def __init__(
        self, api: ClusterApi, pod: str, prefix: str, log: JobLog, has_ended: Callable[[], bool]
    ) -> None:
        self._api, self._pod, self._prefix, self._log = api, pod, prefix, log
        self._has_ended = has_ended
        self._seen_at = ""
        self._seen_then = 0
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        self.error: ProgdistillError | None = None
        self._thread = threading.Thread(target=self._run, name=f"log {pod}", daemon=True)
        self._thread.start()

    def finish(self, seconds: float) -> None:
        """Wait until the log is read to its end, but no longer than that."""
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            while not self._api.closed.is_set():
                ended = self._has_ended()
                try:
                    self._read()
                    if ended:
                        return
                except (TransientError, NotReadyError):
                    if ended:
                        # What a dead node held is lost; a busy server is asked again by `patient`.
                        self._api.patient(self._read)
                        return
                self._api.closed.wait(PAUSE_SECONDS)
        except (NotReadyError, NotThereError):
            return  # it never started, or is gone
        except ProgdistillError as error:
            self.error = error

    def _read(self) -> None:
        query = {"container": CONTAINER, "follow": "true", "timestamps": "true"}
        if self._seen_at:
            since = datetime.fromisoformat(self._seen_at).astimezone(UTC)
            query["sinceTime"] = f"{since:%Y-%m-%dT%H:%M:%S}Z"
        path = self._api.path("v1", "pods", self._pod, "log")
        already = self._seen_then
        for line in self._api.lines(path, read_seconds=READ_SECONDS, **query):
            moment, _, text = line.decode(errors="replace").partition(" ")
            if not moment[:4].isdigit():
                self._log.write(f"{self._prefix}{moment} {text}")  # the kubelet's own word
                continue
            if moment < self._seen_at:
                continue
            if moment == self._seen_at and already > 0:
                already -= 1  # of several lines with the time stamp of the last one
                continue
            if moment != self._seen_at:
                self._seen_at, self._seen_then, already = moment, 0, 0
            self._seen_then += 1
            if self._log.hear(text):
                continue
            self.last.append(text)
            self._log.write(f"{self._prefix}{text}")
