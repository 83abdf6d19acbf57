"""Named faults that a test injects while everything runs."""

import re
import threading
from dataclasses import dataclass, field

from tests.kubernetes_api.storage import Storage


@dataclass
class Fault:
    """What befalls the next `times` requests that match; `path` is searched in path and query."""

    method: str
    path: str
    kind: str
    """answer, reset or cut."""
    times: int
    status: int = 0
    retry_after: int | str | None = None
    after_work: bool = False
    after_bytes: int | None = None
    after_events: int | None = None


@dataclass
class Faults:
    """The faults that wait for their request."""

    storage: Storage
    waiting: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(
        self,
        method: str,
        path_regex: str,
        status: int,
        times: int = 1,
        retry_after_seconds: int | str | None = None,
        after_work: bool = False,
    ) -> None:
        """The next requests get this status; with `after_work` what they ask for is done nevertheless."""
        self._add(Fault(method, path_regex, "answer", times, status, retry_after_seconds, after_work))

    def reset(self, method: str, path_regex: str, times: int = 1, after_work: bool = False) -> None:
        """The connection is reset in place of an answer; with `after_work` only the reply is lost."""
        self._add(Fault(method, path_regex, "reset", times, after_work=after_work))

    def cut_stream(
        self, path_regex: str, after_bytes: int | None = None, times: int = 1, after_events: int | None = None
    ) -> None:
        """A watch or followed log breaks off after so many bytes, or whole events or lines."""
        self._add(Fault("GET", path_regex, "cut", times, after_bytes=after_bytes, after_events=after_events))

    def expire_watches(self) -> None:
        """All watches end with 410, and so do later ones from an older resourceVersion."""
        self.storage.compact()

    def _add(self, fault: Fault) -> None:
        with self._lock:
            self.waiting.append(fault)

    def take(self, method: str, path: str, *kinds: str) -> Fault | None:
        """The first fault for this request, used up once."""
        with self._lock:
            for fault in self.waiting:
                if fault.kind in kinds and fault.method in (method, "*") and re.search(fault.path, path):
                    fault.times -= 1
                    if fault.times <= 0:
                        self.waiting.remove(fault)
                    return fault
        return None
