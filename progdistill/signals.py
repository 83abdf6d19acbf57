"""SIGINT and SIGTERM, handled in one place: `with StopSignals(...)` in every process that can be stopped."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, Final, Self

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_PAUSE_SECONDS: Final = 0.05

Action = Callable[[int], None]


def raise_interrupt(number: int) -> None:
    """Raise KeyboardInterrupt, for SIGTERM as Python does for SIGINT."""
    raise KeyboardInterrupt


def record(number: int) -> None:
    """Do nothing: the signal is in `StopSignals.received`."""


def exit_interrupted(number: int) -> None:
    """Exit at once with status 130: nothing has begun, so nothing has to be saved."""
    os.write(2, b"interrupted before start\n")
    os._exit(130)


def handle_early_signals() -> None:
    """Exit with status 130 on a stop signal, until a command handles them itself. Ignored ones stay ignored."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: exit_interrupted(number))


def restore_default_signals() -> None:
    """Undo `handle_early_signals`, for code that expects Python's KeyboardInterrupt."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


class StopSignals:
    """Handles stop signals from `with` to its end; only the main thread may use it.

    Python drops an exception that a handler raises while an object is finalized or a weak reference calls
    back. A KeyboardInterrupt dropped there is raised again a moment later, when the main thread has moved on.

    Attributes:
        action: What a signal does. Assigning another action leaves no moment without a handler.
        received: The numbers of the signals received, in order; a signal that was raised again counts twice.
    """

    def __init__(
        self, action: Action = raise_interrupt, *, once: bool = False, signals: Iterable[int] = STOP_SIGNALS
    ) -> None:
        """With `once`, `action` is called for the first signal only; later ones are recorded."""
        self.action, self.received = action, list[int]()
        self._once, self._signals = once, signals
        self._is_active, self._was_dropped = False, False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._thread, self._is_active = threading.get_ident(), True
        self._previous_hook, sys.unraisablehook = sys.unraisablehook, self._on_dropped
        self._previous = {number: signal.signal(number, self._handle) for number in self._signals}
        return self

    def __exit__(self, *_: object) -> None:
        self.action = record
        with self._lock:  # after this no signal is sent again; one that was is handled before handlers change
            self._is_active = False
        sys.unraisablehook = self._previous_hook
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def ignore(self) -> None:
        """Ignore signals from here on, after the end of `with` too: the process is about to exit."""
        self.action = record
        self._previous = dict.fromkeys(self._previous, signal.SIG_IGN)

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal was received, for loops that can stop at a known place."""
        if self.received:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_first, self._was_dropped = not self.received or self._was_dropped, False
        self.received.append(number)
        if is_first or not self._once:
            self.action(number)

    def _on_dropped(self, dropped: Any) -> None:
        if isinstance(dropped.exc_value, KeyboardInterrupt) and self.received:
            threading.Timer(_PAUSE_SECONDS, self._send_again).start()
        else:
            self._previous_hook(dropped)

    def _send_again(self) -> None:
        with self._lock:
            if self._is_active:
                self._was_dropped = True
                # To the main thread itself, so that it wakes from whatever it waits for.
                signal.pthread_kill(self._thread, self.received[-1])
