"""Ctrl-C and SIGTERM as exceptions that are not lost, though Python may drop the first.

It drops what a handler raises while an object is cleared away. `interruptible` is for code of others, which
knows KeyboardInterrupt; `Interruption` for code of ours, which has places to look.
"""

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, Self

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_PAUSE_SECONDS: Final = 0.05


@contextmanager
def interruptible(signals: Sequence[signal.Signals] = SIGNALS) -> Iterator[list[int]]:
    """In the body, these signals raise KeyboardInterrupt; gives a list of those that came.

    One that was dropped in `__del__`, or in what a weak reference calls, is raised again a moment later, when
    the main thread is elsewhere. One that was dropped as a file or an answer went is not: nothing tells.
    """
    came: list[int] = []
    is_over = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    def interrupt_again() -> None:
        if not is_over.wait(_PAUSE_SECONDS):
            # To this thread, so that it wakes from whatever it waits for.
            signal.pthread_kill(main_thread, came[-1])

    def notice(dropped: Any) -> None:
        if isinstance(dropped.exc_value, KeyboardInterrupt) and came:
            threading.Thread(target=interrupt_again, daemon=True).start()
        else:
            previous_hook(dropped)

    main_thread, previous_hook = threading.get_ident(), sys.unraisablehook
    previous = {number: signal.signal(number, interrupt) for number in signals}
    sys.unraisablehook = notice
    try:
        yield came
    finally:
        is_over.set()
        sys.unraisablehook = previous_hook
        for number, handler in previous.items():
            signal.signal(number, handler)


class Interrupted(BaseException):
    """SIGINT or SIGTERM came."""


class Interruption:
    """In its body SIGINT and SIGTERM raise Interrupted, once, where they come or at the next check."""

    def __init__(self) -> None:
        self._came = False

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._interrupt) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Interrupted if a signal came."""
        if self._came:
            raise Interrupted

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._came = True
        for one in SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        raise Interrupted
