"""The run of `make demo`, and the shape of the paper's Figure 4 in its report."""

from pathlib import Path

import pytest

from tests.end_to_end.running import report_of, run_flow


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_students_of_few_steps_do_what_the_undistilled_model_needs_many_for(tmp_path: Path) -> None:
    done = run_flow(tmp_path, "run")
    assert done.returncode == 0, done.stderr[-2000:]
    at = {c["sampling_steps"]: c for c in report_of(tmp_path)["checkpoints"]}
    teacher = at[64]["distance"]
    # Undistilled sampling gets worse with fewer steps, stochastic sampling soonest; students hardly do.
    for few, many in ((1, 2), (2, 4), (4, 8), (8, 16), (16, 32)):
        assert at[few]["baseline_ddim"] > at[many]["baseline_ddim"]
    assert all(at[steps]["baseline_ancestral"] > at[steps]["baseline_ddim"] for steps in (2, 4, 8, 16, 32))
    for steps, factor in ((8, 1.0), (4, 1.8), (2, 3.0), (1, 8.0)):
        assert at[steps]["baseline_ddim"] > factor * at[steps]["distance"]
    assert at[4]["distance"] <= 1.25 * teacher
    assert at[1]["distance"] <= 1.6 * teacher
