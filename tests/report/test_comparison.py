"""Runs side by side: only comparable distances, and every difference in their settings."""

import json
from pathlib import Path

import pytest

from progdistill.errors import UsageError
from progdistill.report.comparison import build_comparison, compare_runs, comparison_curves
from progdistill.report.input import ReportInput
from tests.report.runs import DISTILLED, STEPS, example_run


def _faster_run() -> ReportInput:
    """The same run with fewer updates and without its stage at 16 steps."""
    configuration = {**example_run().configuration, "base": {"updates": 500}}
    run = example_run("1700000001", configuration=configuration)
    stages = tuple(
        s.model_copy(update={"distance": 2 * (s.distance or 0)}) for s in run.checkpoints if s.sampling_steps != 16
    )
    return run.model_copy(update={"checkpoints": stages})


def test_distances_stand_side_by_side_at_each_number_of_steps() -> None:
    comparison = compare_runs([example_run(), _faster_run()])
    assert [row.sampling_steps for row in comparison.rows] == list(STEPS)
    assert comparison.rows[-1].distances == (DISTILLED[-1], 2 * DISTILLED[-1])
    assert comparison.rows[2].distances == (DISTILLED[2], None)


def test_only_what_differs_in_the_settings_is_listed() -> None:
    (difference,) = compare_runs([example_run(), _faster_run()]).differences
    assert (difference.path, difference.values) == ("base.updates", (1000, 500))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"evaluator_id": "0" * 64}, "feature extractor"),
        ({"dataset_fingerprint": "0" * 64}, "dataset"),
        ({"configuration": {"evaluation": {"reference_statistics_sha256": "0" * 64}}}, "reference statistics"),
    ],
)
def test_runs_that_were_measured_otherwise_do_not_compare(change: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=f"differ in {named}"):
        compare_runs([example_run(), example_run("2", **change)])


def test_other_sample_counts_do_not_compare() -> None:
    run = example_run("2")
    fewer = tuple(s.model_copy(update={"evaluated_samples": 500}) for s in run.checkpoints)
    with pytest.raises(UsageError, match="sample counts"):
        compare_runs([example_run(), run.model_copy(update={"checkpoints": fewer})])


def test_one_run_is_no_comparison() -> None:
    with pytest.raises(UsageError, match="at least two"):
        compare_runs([example_run()])


def test_every_run_has_a_curve_of_its_own() -> None:
    curves = comparison_curves([example_run(), _faster_run()])
    assert [c.label for c in curves] == ["Run 1700000000", "Run 1700000001", "Undistilled, DDIM (run 1700000000)"]
    assert len({(c.color, c.marker) for c in curves}) == 3


def test_the_comparison_is_a_page_a_picture_and_json(tmp_path: Path) -> None:
    page = build_comparison([example_run(), _faster_run()], tmp_path)
    assert "base.updates" in page.read_text("utf-8")
    assert "(digits classifier features) of 1,000 samples" in page.read_text("utf-8")
    facts = json.loads((tmp_path / "comparison.json").read_text())
    assert facts["run_ids"] == ["1700000000", "1700000001"]
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
