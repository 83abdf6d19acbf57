"""A run's time excludes results that it found in the store."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from progdistill.diffusion.names import SamplerName
from progdistill.evaluation.measurement import EvaluationRecord
from progdistill.logs import configure_logging
from progdistill.registry.checkpoint import CheckpointManifest, TrainingFigures, publish_checkpoint
from progdistill.registry.evaluations import Measurement
from progdistill.report.input import Timings
from progdistill.run.report import point_latest_to, timings_of
from progdistill.store.base import Store
from tests.evaluation.measurements import any_measurement, any_spec
from tests.registry.samples import BEGINNING, description, provenance, weights_file

RUN = "DistillFlow/7"
HOUR = BEGINNING.timestamp()
INTERVALS = [(HOUR, HOUR + 60), (HOUR + 120, HOUR + 180)]


def checkpoint(
    store: Store, folder: Path, run: str | None, minutes: int, seconds: float | None = 8.0
) -> CheckpointManifest:
    figures = None
    if seconds is not None:
        figures = TrainingFigures(updates=1, images=1, seconds=seconds, images_per_second=1, final_loss=None)
    made = provenance(minutes, created_by=run, figures=figures)
    return publish_checkpoint(store, weights_file(folder), description(), made)


def measured(of: CheckpointManifest, minutes: float, sampler: SamplerName = SamplerName.DDIM) -> Measurement:
    asked = any_spec(checkpoint_id=of.id, sampler=sampler, sampling_steps=1)
    at = BEGINNING + timedelta(minutes=minutes)
    return any_measurement(asked, sampling_seconds=3.0, evaluation_seconds=0.5, created_at=at)


def record(of: CheckpointManifest, **answers: Measurement) -> EvaluationRecord:
    return EvaluationRecord(checkpoint_id=of.id, kind=of.identity.kind, sampling_steps=1, **answers)


def parts(timings: Timings) -> tuple[float, float, float, float]:
    return (timings.training_seconds, timings.sampling_seconds, timings.evaluation_seconds, timings.stored_seconds)


@pytest.mark.parametrize(
    ("run", "minutes", "own"),
    [
        (RUN, 0, True),
        (RUN, 90, True),  # its job was found finished when the step was tried again
        ("DistillFlow/6", 2, True),  # a resumed run took over the intervals of that one
        ("DistillFlow/6", -90, False),
        ("DistillFlow/6", 90, False),
        (None, -90, False),
    ],
)
def test_training_counts_for_the_run_that_did_it(
    run: str | None, minutes: int, own: bool, store: Store, tmp_path: Path
) -> None:
    found = timings_of(RUN, [checkpoint(store, tmp_path, run, minutes)], [], INTERVALS, BEGINNING)
    assert parts(found) == ((8.0, 0.0, 0.0, 0.0) if own else (0.0, 0.0, 0.0, 8.0))


def test_a_checkpoint_of_unknown_training_counts_nothing(store: Store, tmp_path: Path) -> None:
    imported = checkpoint(store, tmp_path, None, -90, seconds=None)
    assert parts(timings_of(RUN, [imported], [], [], BEGINNING)) == (0.0, 0.0, 0.0, 0.0)


def test_a_measurement_that_the_store_held_counts_nothing(store: Store, tmp_path: Path) -> None:
    """The baseline is an earlier run's, though the evaluation that asks for it is this one's."""
    made = checkpoint(store, tmp_path, RUN, 0)
    before = measured(made, -90, SamplerName.ANCESTRAL)
    asked = record(made, distilled=measured(made, 2.5), baseline_ancestral=before)
    assert parts(timings_of(RUN, [made], [asked], INTERVALS, BEGINNING)) == (8.0, 3.0, 0.5, 3.5)


def test_a_run_that_finds_everything_spent_nothing_but_its_own_time(store: Store, tmp_path: Path) -> None:
    made = checkpoint(store, tmp_path, "DistillFlow/6", -90)
    asked = record(made, distilled=measured(made, -80))
    found = timings_of(RUN, [made], [asked], [], datetime.now(UTC) - timedelta(seconds=5))
    assert parts(found) == (0.0, 0.0, 0.0, 11.5)
    assert found.overhead_seconds_per_stage == found.total_seconds == pytest.approx(5, abs=2)


def test_latest_leads_to_the_run_that_reported_last(tmp_path: Path) -> None:
    for name in ("6", "7"):
        point_latest_to(tmp_path / name)
        assert (tmp_path / "latest").readlink() == Path(name)


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_latest_that_is_not_a_link_stays_and_nothing_fails(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging()
    latest = tmp_path / "latest"
    latest.mkdir() if what == "folder" else latest.write_text("mine")
    point_latest_to(tmp_path / "7")
    assert f"{latest} does not point to this run (it is not a link)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [latest] and not latest.is_symlink()


def test_where_no_link_can_be_made_nothing_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    point_latest_to(tmp_path / "gone" / "7")
    assert "No such file or directory" in capsys.readouterr().err
