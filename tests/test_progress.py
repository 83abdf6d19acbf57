"""Progress lines are for people; no work depends on them."""

import os
import sys
from contextlib import suppress

import pytest

from progdistill.progress import Progress


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
