"""The log of one container: lines with the time at which they were read, in order."""

import datetime
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.kubernetes_api import clock


@dataclass
class PodLog:
    """Lines so far, and whether more can come."""

    lines: list[tuple[datetime.datetime, bytes]] = field(default_factory=list)
    closed: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    def append(self, line: bytes) -> None:
        """Add a line."""
        with self.changed:
            self.lines.append((clock.now(), line))
            self.changed.notify_all()

    def close(self) -> None:
        """Nothing more will come."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def read(
        self, *, follow: bool, since: datetime.datetime | None, tail: int | None, timestamps: bool
    ) -> Iterator[bytes]:
        """Lines as the API sends them; with `follow` until the container has ended.

        An empty piece comes now and then while nothing is logged, so that a reader can stop.
        """
        with self.changed:
            chosen = [n for n, (when, _) in enumerate(self.lines) if since is None or when >= since]
            if tail is not None:
                chosen = chosen[len(chosen) - min(tail, len(chosen)) :]
            following = len(self.lines)
        for number in chosen:
            yield self._line(number, timestamps)
        while follow:
            with self.changed:
                if following == len(self.lines):
                    if self.closed:
                        return
                    self.changed.wait(0.5)
                ready = range(following, len(self.lines))
                following = len(self.lines)
            if not ready:
                yield b""
            for number in ready:
                yield self._line(number, timestamps)

    def _line(self, number: int, timestamps: bool) -> bytes:
        when, line = self.lines[number]
        return clock.micro_stamp(when).encode() + b" " + line if timestamps else line
