"""Trackers: what TensorBoard, Weights & Biases and MLflow themselves read back."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from progdistill.cli.main import main
from progdistill.config.options import resolve_options
from progdistill.config.settings import settings_from
from progdistill.errors import UsageError
from progdistill.images import encode_png
from progdistill.jobs.events import Event, JobEvent, TrainingEvent, suppress_errors
from progdistill.run import trackers
from progdistill.run.trackers import Tracking, check_trackers, open_tracker
from progdistill.store.base import Store
from progdistill.store.layout import live_samples_key
from progdistill.training.config import TrackerName
from tests.store.stores import local_store

__all__ = ["local_store"]

NOW = datetime(2026, 1, 2, tzinfo=UTC)
JOB = "a" * 64
LABEL = "student of 4 steps"


def events() -> Iterator[Event]:
    """A training of two events, the second with samples."""
    yield JobEvent(at=NOW, job_id=JOB, label=LABEL, state="started")
    for update, key in ((50, None), (100, live_samples_key(JOB))):
        yield TrainingEvent(
            at=NOW,
            job_id=JOB,
            label=LABEL,
            update=update,
            updates=100,
            loss=1 / update,
            images_per_second=64.0,
            remaining_seconds=0.0,
            samples_key=key,
        )
    yield JobEvent(at=NOW, job_id=JOB, label=LABEL, state="finished")


def track(name: TrackerName, store: Store, folder: Path) -> None:
    """Follow the training."""
    store.write(live_samples_key(JOB), encode_png(np.zeros((8, 24, 1), np.uint8)))
    tracking = Tracking(open_tracker(name, "DistillFlow/7", folder), store)
    for event in events():
        tracking(event)


def test_tensorboard_reads_the_event_files(local_store: Store, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track(TrackerName.TENSORBOARD, local_store, tmp_path)
    read = EventAccumulator(str(tmp_path / "tensorboard" / "student_of_4_steps"))
    read.Reload()
    assert [(point.step, round(point.value, 4)) for point in read.Scalars("loss")] == [(50, 0.02), (100, 0.01)]
    (picture,) = read.Images("samples")
    assert (picture.step, picture.width, picture.height) == (100, 24, 8)


@pytest.mark.slow
def test_mlflow_reads_its_store(local_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    track(TrackerName.MLFLOW, local_store, tmp_path)
    client = MlflowClient()
    experiment = client.get_experiment_by_name("progdistill")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], filter_string="tags.run = 'DistillFlow/7'")
    assert (run.info.run_name, run.info.status) == (LABEL, "FINISHED")
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [50, 100]
    assert any("samples" in item.path for item in client.list_artifacts(run.info.run_id, "images"))


@pytest.mark.slow
def test_weights_and_biases_writes_an_offline_run(
    local_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    track(TrackerName.WANDB, local_store, tmp_path)
    wandb.teardown()  # as the end of a process does: its service writes the rest
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    (file,) = folder.glob("run-*.wandb")
    for written in ("progdistill", "DistillFlow/7", LABEL, "loss"):
        assert written.encode() in file.read_bytes()
    assert len(list(folder.glob("files/media/images/samples*.png"))) == 1


def test_the_option_takes_several_and_refuses_others() -> None:
    settings = settings_from(resolve_options({"track": "tensorboard, mlflow"}))
    assert settings.live.trackers == (TrackerName.TENSORBOARD, TrackerName.MLFLOW)
    assert settings_from(resolve_options({})).live.trackers == ()
    with pytest.raises(UsageError, match="unknown tracker 'board'; there are tensorboard, wandb, mlflow"):
        settings_from(resolve_options({"track": "board"}))


def test_a_package_that_is_missing_is_named_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    assert main(["plan", "--track", "wandb"]) == 2
    assert "pip install wandb" in capsys.readouterr().err
    check_trackers(())


def test_a_tracker_that_fails_stops_nothing_and_is_said_once(
    local_store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    tracking = Tracking(open_tracker(TrackerName.TENSORBOARD, "DistillFlow/7", tmp_path), local_store)
    listener = suppress_errors(tracking)
    for event in events():
        listener(event)
    tracking.measured([])
    assert caplog.text.count("some job events were dropped") == 1
