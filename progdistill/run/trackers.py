"""TensorBoard, Weights & Biases and MLflow, beside a run's own events; each package is imported where it is used.

A tracker gets one series for each training job, and one for the measurements.
"""

import io
import logging
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from progdistill.errors import UsageError
from progdistill.evaluation.measurement import EvaluationRecord
from progdistill.jobs.events import Event, JobEvent
from progdistill.store.base import Store
from progdistill.training.config import TrackerName

logger = logging.getLogger(__name__)

PROJECT = "progdistill"
"""Of Weights & Biases, and the experiment of MLflow, unless their own variables name another."""

PACKAGES = {TrackerName.TENSORBOARD: "tensorboard", TrackerName.WANDB: "wandb", TrackerName.MLFLOW: "mlflow-skinny"}


class Tracker(Protocol):
    """Keeps numbers and pictures of one run of the flow, by series."""

    def log(self, series: str, step: int, figures: Mapping[str, float], picture: bytes | None = None) -> None:
        """Keep figures by name, and a PNG of samples; steps of a series do not fall."""

    def close(self, series: str) -> None:
        """End a series, if it was begun."""


def check_trackers(names: Iterable[TrackerName]) -> None:
    """Raise UsageError where the package of a tracker is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise UsageError(
                f"--track {name}: its package is missing: pip install {PACKAGES[name]} (docs/how_to/watch.md)"
            )


def open_tracker(name: TrackerName, run: str, folder: Path) -> Tracker:
    """Open a tracker of a run, `flow/run id`, whose files are in `folder`."""
    if name is TrackerName.TENSORBOARD:
        return TensorBoard(folder / "tensorboard")
    if name is TrackerName.WANDB:
        return WeightsAndBiases(run, folder)
    return MLflow(run)


class Tracking:
    """A listener that passes a run's trainings to a tracker; `measured` passes its measurements."""

    def __init__(self, tracker: Tracker, store: Store) -> None:
        self._tracker, self._store = tracker, store

    def __call__(self, event: Event) -> None:
        """Log a training's event; a job's end closes its series."""
        if isinstance(event, JobEvent):
            if event.state in ("finished", "failed"):
                self._tracker.close(event.label)
            return
        picture = None if event.samples_key is None else self._store.read(event.samples_key)
        figures = {"loss": event.loss, "images_per_second": event.images_per_second}
        if event.model_flops_utilization is not None:
            figures["model_flops_utilization"] = event.model_flops_utilization
        self._tracker.log(event.label, event.update, figures, picture)

    def measured(self, evaluations: Sequence[EvaluationRecord]) -> None:
        """Log the distances of a run's rungs, at their sampling steps; a failure is logged, and stops nothing."""
        try:
            self._log_distances(evaluations)
        except Exception as error:
            logger.warning("a tracker has no distances (%s: %s)", type(error).__name__, error)

    def _log_distances(self, evaluations: Sequence[EvaluationRecord]) -> None:
        for record in sorted(evaluations, key=lambda record: record.sampling_steps):
            found = {"distance": record.distilled, "undistilled_distance": record.baseline_ddim}
            figures = {name: measurement.distance for name, measurement in found.items() if measurement is not None}
            self._tracker.log("evaluation", record.sampling_steps, figures)
        self._tracker.close("evaluation")


def _plain(series: str) -> str:
    return re.sub(r"\W+", "_", series)


class TensorBoard:
    """Event files, one folder a series; several processes may write them."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._writers = folder, dict[str, Any]()

    def log(self, series: str, step: int, figures: Mapping[str, float], picture: bytes | None = None) -> None:
        """See Tracker.log."""
        from tensorboard.compat.proto.event_pb2 import Event as TensorBoardEvent
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if series not in self._writers:
            self._writers[series] = EventFileWriter(str(self._folder / _plain(series)))
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        if picture is not None:
            width, height = (int.from_bytes(picture[at : at + 4]) for at in (16, 20))  # of a PNG's header
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=picture)
            values.append(Summary.Value(tag="samples", image=image))
        event = TensorBoardEvent(wall_time=time.time(), step=step, summary=Summary(value=values))
        self._writers[series].add_event(event)
        self._writers[series].flush()

    def close(self, series: str) -> None:
        """See Tracker.close."""
        if series in self._writers:
            self._writers.pop(series).close()


class WeightsAndBiases:
    """One run of Weights & Biases a series, in a group for the run of the flow."""

    def __init__(self, run: str, folder: Path) -> None:
        self._run, self._folder, self._open = run, folder, dict[str, Any]()

    def log(self, series: str, step: int, figures: Mapping[str, float], picture: bytes | None = None) -> None:
        """See Tracker.log."""
        import wandb

        if series not in self._open:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._open[series] = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                group=self._run,
                name=series,
                id=_plain(f"{self._run} {series}"),
                resume="allow",
                reinit="create_new",
                dir=str(self._folder),
            )
        values: dict[str, Any] = dict(figures)
        if picture is not None:
            values["samples"] = wandb.Image(_opened(picture))
        self._open[series].log(values, step=step)

    def close(self, series: str) -> None:
        """See Tracker.close."""
        if series in self._open:
            self._open.pop(series).finish()


class MLflow:
    """One run of MLflow a series, with the tag `run` for the run of the flow."""

    def __init__(self, run: str) -> None:
        self._run, self._open = run, dict[str, str]()

    def log(self, series: str, step: int, figures: Mapping[str, float], picture: bytes | None = None) -> None:
        """See Tracker.log."""
        client = self._client()
        if series not in self._open:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            experiment = client.get_experiment_by_name(name)
            experiment_id = client.create_experiment(name) if experiment is None else experiment.experiment_id
            begun = client.create_run(experiment_id, run_name=series, tags={"run": self._run})
            self._open[series] = begun.info.run_id
        for figure, value in figures.items():
            client.log_metric(self._open[series], figure, value, step=step)
        if picture is not None:
            client.log_image(self._open[series], _opened(picture), key="samples", step=step)

    def close(self, series: str) -> None:
        """See Tracker.close."""
        if series in self._open:
            self._client().set_terminated(self._open.pop(series))

    @staticmethod
    def _client() -> Any:
        from mlflow import MlflowClient

        return MlflowClient()


def _opened(picture: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(picture))
