"""A stop signal is never lost, and never arrives after its handler was removed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from progdistill import signals
from progdistill.signals import STOP_SIGNALS, StopSignals, record


class RaisingItsSignal:
    """An object that receives a signal while it is finalized: Python drops what the handler raises there."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __del__(self) -> None:
        signal.raise_signal(self._number)


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_an_interrupt_that_python_drops_is_raised_again(number: signal.Signals, once: bool) -> None:
    before = [signal.getsignal(stop_signal) for stop_signal in STOP_SIGNALS]
    with pytest.raises(KeyboardInterrupt), StopSignals(once=once) as stop:
        RaisingItsSignal(number)
        assert stop.received == [number]
        threading.Event().wait(250)
    assert stop.received == [number, number]
    assert [signal.getsignal(stop_signal) for stop_signal in STOP_SIGNALS] == before


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_an_interrupt_that_was_caught_is_not_raised_again(number: signal.Signals) -> None:
    with StopSignals() as stop:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert not threading.Event().wait(0.3)
    assert stop.received == [number]


def test_an_interrupt_is_not_raised_again_after_the_handlers_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The block ends in the very moment in which the dropped interrupt is sent again."""
    sending, send = threading.Event(), signal.pthread_kill

    def send_slowly(thread: int, number: int) -> None:
        sending.set()
        time.sleep(0.3)
        send(thread, number)

    monkeypatch.setattr(signals.signal, "pthread_kill", send_slowly)
    arrived_late = []
    with StopSignals(lambda number: arrived_late.append(number)):
        with StopSignals() as stop:
            RaisingItsSignal(signal.SIGINT)
            assert sending.wait(250)
        time.sleep(0.1)
    assert stop.received == [signal.SIGINT, signal.SIGINT] and arrived_late == []


def test_with_once_only_the_first_signal_acts() -> None:
    with StopSignals(once=True) as stop:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert stop.received == [signal.SIGINT, signal.SIGTERM]


def test_the_action_can_change_and_signals_can_be_ignored_to_the_end() -> None:
    program = """if True:
        import signal
        from progdistill.signals import StopSignals, record
        with StopSignals() as stop:
            stop.action = record
            signal.raise_signal(signal.SIGTERM)
            print(len(stop.received))
            stop.ignore()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=250)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_check_raises_once_a_signal_was_received() -> None:
    with StopSignals(record) as stop:
        stop.check()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            stop.check()


def test_other_errors_that_python_drops_are_reported_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    reported = []
    monkeypatch.setattr("sys.unraisablehook", lambda dropped: reported.append(type(dropped.exc_value)))

    class Broken:
        def __del__(self) -> None:
            raise KeyError

    with StopSignals():
        Broken()
    assert reported == [KeyError]


FLOW = Path(__file__).parents[1] / "flows" / "distill_flow.py"
COMMANDS = (("-c", "from progdistill.cli.start import main; main()", "plan"), (str(FLOW), "run"))


@pytest.mark.parametrize("command", COMMANDS, ids=["progdistill", "flow"])
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_while_a_command_is_still_being_imported_is_no_traceback(
    number: signal.Signals, command: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "pydantic.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(250)\n")
    paths = os.pathsep.join([str(tmp_path), str(FLOW.parents[1])])
    process = subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "importing\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=200)
    assert (process.returncode, said) == (130, "interrupted before start\n")
