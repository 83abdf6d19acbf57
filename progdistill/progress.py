"""Progress of anything that takes more than a few seconds: one calm line a tick, with rate and ETA."""

import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from progdistill.logs import as_line

TICK_SECONDS = 5.0
_LINE = re.compile(r".*: +\d+% · .* · ETA \w+$")


def format_duration(seconds: float) -> str:
    """Render a non-negative duration in seconds as `42s`, `3m05s` or `2h04m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def is_progress(line: str) -> bool:
    """Whether a line of text is one of Progress."""
    return _LINE.match(line) is not None


class Progress:
    """Counts work done toward `total` and prints a line to standard error once per tick.

    The first line appears only after one tick, so that short work stays silent. `start` is the count already
    done by an earlier process: it moves the percentage, not the rate. `describe_rate` tells more of units per second.
    """

    def __init__(
        self,
        label: str,
        *,
        total: int,
        unit: str,
        start: int = 0,
        describe_rate: Callable[[float], str] = lambda rate: "",
    ) -> None:
        self._label, self._total, self._unit, self._describe_rate = label, total, unit, describe_rate
        self._start, self._done = start, start
        self._began = self._last_tick = time.monotonic()

    def advance(self, count: int = 1, **figures: float) -> None:
        """Add `count` units; `figures` (such as loss=0.12) are shown beside the rate."""
        self._done += count
        now = time.monotonic()
        if now - self._last_tick >= TICK_SECONDS:
            self._last_tick = now
            self._print(now, figures)

    def _print(self, now: float, figures: dict[str, float]) -> None:
        rate = (self._done - self._start) / max(now - self._began, 1e-9)
        remaining = (self._total - self._done) / rate if rate > 0 else 0.0
        shown = "".join(f" · {name} {value:.4g}" for name, value in figures.items())
        percent = 100 * self._done / max(self._total, 1)
        line = (
            f"{self._label}: {percent:3.0f}% · {self._done:,}/{self._total:,} {self._unit}{shown}"
            f" · {rate:,.4g} {self._unit}/s{self._describe_rate(rate)} · ETA {format_duration(remaining)}"
        )
        with suppress(BrokenPipeError):  # work that nobody watches any more is still work
            print(as_line(line, logger=__name__), file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def readable_bytes(count: float) -> str:
    """Such as 1.2 GB, 3.4 MB or 5.6 kB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:,.1f} kB"
