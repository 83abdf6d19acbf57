"""Follows the logs of a job's pods: the first rank's lines as they are, the others' with their rank."""

import threading
from array import array
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from progdistill.errors import ProgdistillError, TransientError
from progdistill.jobs.events import Listener, deliver
from progdistill.jobs.kubernetes.api import ClusterApi, NotFoundError, NotReadyError, unexpected_error
from progdistill.jobs.kubernetes.manifest import CONTAINER
from progdistill.jobs.local import LogFile

LAST_LINES: Final = 15
READ_SECONDS: Final = 300.0
PAUSE_SECONDS: Final = 0.5
OVERLAP_SECONDS: Final = 5
"""How far a new connection goes back: standard error may be dated before the standard output it follows."""


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
        self._seen = _Seen()
        self._rest = b""
        self._said: set[str] = set()
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
                    if self._read() and ended:
                        self._take_rest()
                        return
                except (TransientError, NotReadyError):
                    if ended:
                        # What a dead node held is lost; a busy server is asked again by `patient`.
                        self._api.patient(self._read_to_end)
                        return
                self._api.closed.wait(PAUSE_SECONDS)
        except NotReadyError:
            return  # it never started
        except NotFoundError:
            self._take_rest()  # it is gone
        except ProgdistillError as error:
            self.error = error
        except Exception as error:
            self.error = unexpected_error(error, f"following the log of {self._pod}")

    def _read_to_end(self) -> None:
        while not self._read():
            self._api.closed.wait(PAUSE_SECONDS)
        self._take_rest()

    def _read(self) -> bool:
        """Read on; whether that brought nothing new, as it does at the end of a container that has ended.

        An answer that ends is no such end: it may have been cut off anywhere.
        """
        query = {"container": CONTAINER, "follow": "true", "timestamps": "true"}
        again, before = self._seen.again(), (len(self._seen), self._rest)
        if (since := self._seen.since) is not None:
            query["sinceTime"] = f"{datetime.fromtimestamp(since, UTC):%Y-%m-%dT%H:%M:%S}Z"
        path, rest = self._api.path("v1", "pods", self._pod, "log"), b""
        for line in self._api.lines(path, read_seconds=READ_SECONDS, **query):
            if not line.endswith(b"\n"):
                rest = line
            elif again[hash(line)] > 0:
                again[hash(line)] -= 1
            else:
                self._take(line)
        self._rest = rest
        if rest and not rest[:1].isdigit():
            self._take(rest)  # no line that is cut off, but the kubelet's own word
        return before == (len(self._seen), rest)

    def _take_rest(self) -> None:
        """A last line without an end; nothing can follow it any more."""
        if self._rest:
            self._take(self._rest)

    def _take(self, line: bytes) -> None:
        moment, _, text = line.decode(errors="replace").rstrip("\n").partition(" ")
        try:
            second = int(datetime.fromisoformat(moment).timestamp())
        except ValueError:
            word = f"{moment} {text}".strip()  # the kubelet's own, at each attempt
            if word not in self._said:
                self._said.add(word)
                self._log.write(f"{self._prefix}{word}")
            return
        self._seen.add(second, line)
        if self._log.hear(text):
            return
        self.last.append(text)
        self._log.write(f"{self._prefix}{text}")


class _Seen:
    """The lines of a log that were read, each as its second and its hash: 16 bytes a line."""

    def __init__(self) -> None:
        self._seconds, self._hashes = array("q"), array("q")

    def __len__(self) -> int:
        return len(self._seconds)

    def add(self, second: int, line: bytes) -> None:
        """One more; whole with its time stamp, as a server sends it each time."""
        self._seconds.append(second)
        self._hashes.append(hash(line))

    @property
    def since(self) -> int | None:
        """The second from which on what is not read yet is dated; None before the first line."""
        return self._seconds[-1] - OVERLAP_SECONDS if self._seconds else None

    def again(self) -> Counter[int]:
        """How often a server that is asked from there on will send each line again."""
        since = self.since
        dated = zip(self._seconds, self._hashes, strict=True)
        return Counter() if since is None else Counter(one for second, one in dated if second >= since)
