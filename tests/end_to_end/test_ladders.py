"""Ladders that do not halve, in the whole flow."""

from pathlib import Path

import pytest

from tests.end_to_end.running import SMALL, report_of, run_flow


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ladder", "rungs"),
    [pytest.param("16:1:4", [16, 4, 1], id="factor 4"), pytest.param("64,32,2", [64, 32, 2], id="uneven")],
)
def test_a_ladder_may_skip_rungs(ladder: str, rungs: list[int], tmp_path: Path) -> None:
    done = run_flow(tmp_path, "run", "--ladder", ladder, *SMALL)
    assert done.returncode == 0, done.stderr[-2000:]
    checkpoints = report_of(tmp_path)["checkpoints"]
    assert [c["sampling_steps"] for c in checkpoints] == rungs
    assert [c["parent"] for c in checkpoints[1:]] == [c["id"] for c in checkpoints[:-1]]
    assert all(c["distance"] > 0 for c in checkpoints)
