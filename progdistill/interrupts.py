"""Ctrl-C and SIGTERM as KeyboardInterrupt, even where Python drops the first."""

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_PAUSE_SECONDS: Final = 0.05


@contextmanager
def interruptible(signals: Sequence[signal.Signals] = SIGNALS) -> Iterator[list[int]]:
    """In the body, these signals raise KeyboardInterrupt; gives a list of those that came.

    Python drops what a handler raises while an object is cleared away (in `__del__`, or in what a weak
    reference calls): it is raised again a moment later, when the main thread is elsewhere.
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
