"""Follows the logs of a job's pods. Lines of ranks other than 0 begin with `[rank n]` in the pod already."""

import threading
from array import array
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Final

from progdistill.config.pod_patch import CONTAINER
from progdistill.errors import ProgdistillError, TransientError
from progdistill.jobs.kubernetes.api import ClusterApi, NotFoundError, NotReadyError, retry, thread_error
from progdistill.jobs.kubernetes.diagnostics import has_started, pod_exit
from progdistill.jobs.kubernetes.watch import WatchCache
from progdistill.jobs.local import LAST_LINES, JobLog
from progdistill.progress import is_progress

READ_SECONDS: Final = 300.0
PAUSE_SECONDS: Final = 0.5
FINISH_SECONDS: Final = 15.0  # for the last lines of a job's pods at its end
NODE_SECONDS: Final = 60.0  # for the log of a pod that has ended: its node may be gone
OVERLAP_SECONDS: Final = 5
"""How far a new connection goes back: standard error may be dated before the standard output it follows."""


class PodLogs:
    """The logs of all pods of a job."""

    def __init__(self, api: ClusterApi, log: JobLog, pods: WatchCache) -> None:
        self._api, self._log, self._pods = api, log, pods
        self._logs: dict[str, PodLog] = {}

    def follow(self) -> None:
        """Begin to follow the pods that have started since the last call."""
        for pod in self._pods.ever_seen():
            uid = pod["metadata"]["uid"]
            if uid not in self._logs and has_started(pod):
                self._logs[uid] = PodLog(self._api, pod["metadata"]["name"], self._log, partial(self._has_ended, uid))

    def _has_ended(self, uid: str) -> bool:
        latest = self._pods.find(uid)
        return latest is None or pod_exit(latest) is not None

    def finish(self) -> None:
        """Wait for the last lines, FINISH_SECONDS at most."""
        self.follow()
        deadline = monotonic() + FINISH_SECONDS
        for log in self._logs.values():
            log.join(max(0.0, deadline - monotonic()))

    def errors(self) -> list[ProgdistillError | None]:
        """What ended the following of each log, if not its end."""
        return [log.error for log in self._logs.values()]

    def last_lines(self) -> dict[str, list[str]]:
        """The last lines of each pod, by the pod's name."""
        return {log.pod: list(log.last) for log in self._logs.values()}


class PodLog(threading.Thread):
    """A thread that follows one pod's log to its end, across broken connections, each line once."""

    def __init__(self, api: ClusterApi, pod: str, log: JobLog, has_ended: Callable[[], bool]) -> None:
        super().__init__(name=f"log {pod}", daemon=True)
        self._api, self.pod, self._log, self._has_ended = api, pod, log, has_ended
        # Of each line that was read, its second and its hash: 16 bytes per line.
        self._seconds, self._hashes = array("q"), array("q")
        self._partial = b""
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        self.error: ProgdistillError | None = None
        self.start()

    def run(self) -> None:
        try:
            self._follow()
        except NotFoundError:
            self._take_partial()  # the pod is deleted
        except NotReadyError:
            return  # it never started
        except Exception as error:
            self.error = thread_error(error, f"following the log of {self.pod}")

    def _follow(self) -> None:
        while not self._api.closed.is_set():
            ended = self._has_ended()
            try:
                if self._read() and ended:
                    self._take_partial()
                    return
            except (TransientError, NotReadyError):
                if ended:
                    self._read_rest()
                    return
            self._api.closed.wait(PAUSE_SECONDS)

    def _read_rest(self) -> None:
        """Read the log of a pod that has ended. What a lost node held is lost, which fails no job."""

        def read_to_end() -> None:
            while not self._read():
                self._api.closed.wait(PAUSE_SECONDS)

        try:
            retry(read_to_end, self._api.closed, NODE_SECONDS)
        except TransientError as error:
            self._log.write(f"the rest of the log of {self.pod} is lost: {error}")
        self._take_partial()

    def _read(self) -> bool:
        """Read on. True if there was nothing new, as at the end of a container that has ended.

        A response that ends is not the end of the log: it may have been cut off anywhere.
        """
        query = {"container": CONTAINER, "follow": "true", "timestamps": "true"}
        before, repeated = (len(self._seconds), self._partial), Counter[int]()
        if self._seconds:
            since = self._seconds[-1] - OVERLAP_SECONDS
            query["sinceTime"] = f"{datetime.fromtimestamp(since, UTC):%Y-%m-%dT%H:%M:%S}Z"
            dated = zip(self._seconds, self._hashes, strict=True)
            repeated.update(line for second, line in dated if second >= since)
        path, cut_off = self._api.path("v1", "pods", self.pod, "log"), b""
        for line in self._api.lines(path, read_seconds=READ_SECONDS, **query):
            if not line.endswith(b"\n"):
                cut_off = line
            elif repeated[hash(line)] > 0:
                repeated[hash(line)] -= 1
            else:
                self._take(line)
        self._partial = cut_off
        if cut_off and not cut_off[:1].isdigit():
            self._take(cut_off)  # a message of the kubelet, which has no line end
        return before == (len(self._seconds), cut_off)

    def _take_partial(self) -> None:
        """Take a last line without a line end: nothing can follow it."""
        if self._partial:
            self._take(self._partial)

    def _take(self, line: bytes) -> None:
        timestamp, _, text = line.decode(errors="replace").rstrip("\n").partition(" ")
        try:
            second = int(datetime.fromisoformat(timestamp).timestamp())
        except ValueError:
            # Of the kubelet, with each response; no line of the job.
            said = f"{timestamp} {text}".strip()
            gone = said.startswith("unable to retrieve container logs")
            self._log.write_once(f"{self.pod}: its node no longer has the log" if gone else f"{self.pod}: {said}")
            return
        self._seconds.append(second)
        self._hashes.append(hash(line))
        if (message := self._log.feed(text)) is not None and not is_progress(message):
            self.last.append(message)
