"""Progress lines are for people; no work depends on them."""

import os
from contextlib import suppress

from progdistill.progress import Progress


def test_work_goes_on_where_nobody_reads_its_progress_any_more() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    with Progress("work", total=2, unit="updates", tick_seconds=0.0, stream=stream) as progress:
        progress.advance()
        progress.advance()
    with suppress(BrokenPipeError):
        stream.close()
