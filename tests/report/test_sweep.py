"""The report of a sweep: means and deviations over the seeds, the best named, divergence told apart."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from progdistill.report.input import StageEntry
from progdistill.report.sweep import SweepReport, SweepRun, build_sweep, headline


def run_of(rate: float, seed: int, one_step: float | None) -> SweepRun:
    """A run whose distance at 2 steps is half of that at one step; None: it diverged."""
    distances = {} if one_step is None else {2: one_step / 2, 1: one_step}
    stages = tuple(
        StageEntry(
            sampling_steps=steps, id="0" * 64, parent=None, kind="student", distance=distance, baseline_ddim=99.0,
            distance_name="frechet_digits_classifier",
        )
        for steps, distance in distances.items()
    )  # fmt: skip
    diverged = "loss nan" if one_step is None else None
    setting = {"distill.learning_rate": rate}
    return SweepRun(name=f"SweepFlow/1.{seed}", setting=setting, seed=seed, checkpoints=stages, diverged=diverged)


def report_of(*runs: SweepRun) -> SweepReport:
    return SweepReport(
        run_id="1", flow="SweepFlow", created_at=datetime(2026, 1, 1, tzinfo=UTC), dataset="digits", code_version="x",
        store="store", sampling_steps=(2, 1), configuration={}, runs=runs,
    )  # fmt: skip


SWEEP = report_of(run_of(1e-4, 0, 10.0), run_of(1e-4, 1, 14.0), run_of(1e-3, 0, 7.0), run_of(1e-3, 1, 9.0))


def test_the_best_has_the_least_mean_at_the_fewest_steps() -> None:
    best = SWEEP.best
    assert best is not None and best.setting == {"distill.learning_rate": 1e-3} and best.members == (2, 3)
    assert best.distances[1].mean == 8 and best.distances[1].deviation == pytest.approx(2**0.5)
    assert "distill.learning_rate=0.001, at a distance of 8.00 ± 1.41 (mean ± standard deviation" in headline(SWEEP)


def test_a_setting_of_which_a_run_diverged_is_last_however_good_the_others_are() -> None:
    report = report_of(run_of(0.1, 0, 0.5), run_of(0.1, 1, None), run_of(1e-3, 0, 7.0), run_of(1e-3, 1, 9.0))
    assert report.best is not None and report.best.setting == {"distill.learning_rate": 1e-3}
    assert (report.settings[-1].diverged, report.settings[-1].distances) == (1, {})
    assert "none is the best" in headline(report_of(run_of(0.1, 0, None)))


def test_the_report_is_a_page_a_picture_and_json(tmp_path: Path) -> None:
    diverged = report_of(*SWEEP.runs, run_of(0.1, 0, None), run_of(0.1, 1, None))
    page = build_sweep(diverged, tmp_path).read_text("utf-8")
    assert "distill.learning_rate=0.001" in page and "2 of 2 diverged" in page and "8.00 ± 1.41" in page
    assert SweepReport.model_validate_json((tmp_path / "sweep.json").read_text()) == diverged
    assert len(json.loads((tmp_path / "sweep.json").read_text())["runs"]) == 6
    assert (tmp_path / "sweep.png").stat().st_size > 10_000
