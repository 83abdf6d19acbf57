"""Progress lines are for people; no work depends on them."""

import os
import re
import sys
from contextlib import suppress

import pytest

from progdistill.progress import Progress, is_progress


def test_work_goes_on_where_nobody_reads_its_progress_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    monkeypatch.setattr("progdistill.progress.TICK_SECONDS", 0.0)
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress("work", total=2, unit="updates") as progress:
        progress.advance()
        progress.advance()
    with suppress(BrokenPipeError):
        stream.close()


def test_a_line_says_what_is_made_of_the_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("progdistill.progress.TICK_SECONDS", 0.0)
    with Progress("work", total=8, unit="updates", describe_rate=lambda rate: f" · {rate / rate:g} of it") as progress:
        progress.advance(2, loss=0.5)
    line = capsys.readouterr().err
    assert re.fullmatch(r"work:  25% · 2/8 updates · loss 0\.5 · \S+ updates/s · 1 of it · ETA 0s\n", line)
    assert is_progress(line.rstrip()) and not is_progress("stopped at 25% · ETA unknown, saved")
