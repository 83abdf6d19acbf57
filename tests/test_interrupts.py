"""An interrupt is never lost."""

import signal
import threading

import pytest

from progdistill.signals import SIGNALS, interruptible


class RaisingItsSignal:
    """An object during whose clearing away a signal comes: Python drops what its handler raises there."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __del__(self) -> None:
        signal.raise_signal(self._number)


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupt_that_python_drops_is_raised_again(number: signal.Signals) -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    with pytest.raises(KeyboardInterrupt), interruptible() as came:
        RaisingItsSignal(number)
        assert came == [number]
        threading.Event().wait(250)
    assert came == [number, number]
    assert [signal.getsignal(one) for one in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupt_that_was_heard_is_not_raised_again(number: signal.Signals) -> None:
    with interruptible() as came:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert not threading.Event().wait(0.3)
    assert came == [number]


def test_other_errors_that_python_drops_are_told_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr("sys.unraisablehook", lambda dropped: told.append(type(dropped.exc_value)))

    class Broken:
        def __del__(self) -> None:
            raise KeyError

    with interruptible():
        Broken()
    assert told == [KeyError]
