"""How far a run is, as its driver keeps it in the store: any machine that reaches the store can look."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

from pydantic import Field, ValidationError

from progdistill.jobs.events import Event, JobEvent, TrainingEvent
from progdistill.models_base import Frozen
from progdistill.store.base import Store
from progdistill.store.layout import PROGRESS, progress_key, progress_prefix

MOST_LOSSES: Final = 64
"""Points of a loss curve that are kept; of a longer one every second."""


class JobProgress(Frozen):
    """How far one job of a run is."""

    schema_version: Literal[1] = 1
    run: str = Field(description="flow/run id")
    dataset: str
    ladder: tuple[int, ...]
    job_id: str
    label: str
    state: Literal["found", "started", "finished", "failed"]
    began_at: datetime
    updated_at: datetime
    training: TrainingEvent | None = Field(None, description="the newest one; None for a job that does not train")
    losses: tuple[tuple[int, float], ...] = Field((), description="(update, mean loss since the point before)")
    earlier_device_seconds: float = Field(0.0, description="of workers that were restarted")
    restarts: int = Field(0, description="how often the workers began anew")

    @property
    def device_seconds(self) -> float:
        """Seconds of training so far, times ranks; start-up, waiting and evaluation are not counted."""
        now = 0.0 if self.training is None else self.training.seconds * self.training.world_size
        return self.earlier_device_seconds + now

    def after(self, event: Event) -> "JobProgress":
        """The progress once an event of the job has come."""
        if isinstance(event, JobEvent):
            return self.model_copy(update={"state": event.state, "updated_at": event.at})
        restarted = self.training is not None and event.seconds < self.training.seconds
        losses = (*self.losses, (event.update, event.loss))
        return self.model_copy(
            update={
                "state": "started",
                "updated_at": event.at,
                "training": event,
                "losses": losses if len(losses) <= MOST_LOSSES else losses[1::2],
                "restarts": self.restarts + restarted,
                "earlier_device_seconds": self.device_seconds if restarted else self.earlier_device_seconds,
            }
        )


class ProgressRecord:
    """A listener that keeps the progress of a run's jobs in the store, one object a job."""

    def __init__(self, store: Store, flow: str, run_id: str, dataset: str, ladder: Sequence[int]) -> None:
        self._store, self._flow, self._run_id = store, flow, run_id
        self._dataset, self._ladder = dataset, tuple(ladder)
        self._jobs: dict[str, JobProgress] = {}

    def __call__(self, event: Event) -> None:
        """Write the progress of the event's job."""
        key = progress_key(self._flow, self._run_id, event.job_id)
        known = self._jobs.get(event.job_id) or _read(self._store, key) or self._begin(event)
        self._jobs[event.job_id] = known.after(event)
        self._store.write(key, self._jobs[event.job_id].model_dump_json().encode())

    def _begin(self, event: Event) -> JobProgress:
        return JobProgress(
            run=f"{self._flow}/{self._run_id}",
            dataset=self._dataset,
            ladder=self._ladder,
            job_id=event.job_id,
            label=event.label,
            state="started",
            began_at=event.at,
            updated_at=event.at,
        )


def _read(store: Store, key: str) -> JobProgress | None:
    data = store.read(key)
    try:
        return None if data is None else JobProgress.model_validate_json(data)
    except ValidationError:  # of another release, or damaged: it is not worth a message
        return None


def progress_of(store: Store, flow: str, run_id: str) -> list[JobProgress]:
    """The progress of a run's jobs, in the order in which they began."""
    found = (_read(store, item.key) for item in store.list(progress_prefix(flow, run_id)))
    return sorted((job for job in found if job is not None), key=lambda job: job.began_at)


def newest_run(store: Store) -> tuple[str, str] | None:
    """Flow and id of the run that was updated last; None where there is none."""
    newest = max(store.list(PROGRESS), key=lambda item: item.modified_at, default=None)
    if newest is None:
        return None
    _, flow, run_id, _ = newest.key.split("/")
    return flow, run_id
