"""The launcher's promise, and the one way to get a job done: look for its result, else launch it."""

from datetime import UTC, datetime
from typing import Literal, NamedTuple, Protocol

from progdistill.artifacts.records import read_record
from progdistill.artifacts.store import Store
from progdistill.errors import LostInvariantError
from progdistill.jobs.events import JobEvent, Listener, ignore
from progdistill.jobs.finished import finished_result
from progdistill.jobs.spec import JobRequest, JobResult, result_key


class Launcher(Protocol):
    """Where jobs run: child processes here, or pods of a cluster."""

    def launch(self, request: JobRequest) -> None:
        """Run a job to its end; its result is then in the store.

        Raises UsageError, WorkInterrupted or ProgdistillError with the worker's last words.
        """


class JobOutcome(NamedTuple):
    """A job's result, and whether it was there already."""

    result: JobResult
    reused: bool


def complete(
    store: Store, launcher: Launcher, request: JobRequest, on_event: Listener = ignore
) -> JobOutcome:
    """Return the result of a job, running it unless the store has its result and what that stands for."""

    def tell(state: Literal["found", "started", "finished", "failed"]) -> None:
        spec = request.spec
        on_event(JobEvent(at=datetime.now(UTC), job_id=spec.id, label=spec.label, state=state))

    key = result_key(request.spec.id)
    known = finished_result(store, request.spec)
    if known is not None:
        tell("found")
        return JobOutcome(known, reused=True)
    tell("started")
    try:
        launcher.launch(request)
    except BaseException:
        tell("failed")
        raise
    tell("finished")
    result = read_record(store, key, JobResult)
    if result is None:
        raise LostInvariantError(f"{request.spec.label} ended well but left no result at {store.uri}/{key}")
    return JobOutcome(result, reused=False)
