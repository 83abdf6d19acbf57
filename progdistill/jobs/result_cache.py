"""The launcher's promise, and the one way to get a job done: look for its result, else launch it."""

import sys
from datetime import UTC, datetime
from typing import Literal, NamedTuple, Protocol

from progdistill.errors import LostInvariantError
from progdistill.evaluation.measurement import EvaluationRecord
from progdistill.features.manifest import require_evaluator
from progdistill.jobs.events import JobEvent, Listener, ignore
from progdistill.jobs.spec import (
    EvaluateSpec,
    JobRequest,
    JobResult,
    JobSpec,
    PrepareEvaluatorSpec,
    TrainingSpec,
)
from progdistill.registry.checkpoint import require_blob, require_checkpoint
from progdistill.store.base import Store
from progdistill.store.documents import publish_record, read_record
from progdistill.store.layout import job_result_key


def cached_result(store: Store, spec: JobSpec) -> JobResult | None:
    """The result of a job that is done; None where it is to be run, for the first time or again.

    A result that is damaged, or that has lost what it stands for, is removed: reused, it would keep the job
    from mending that. Of files only the size is looked at: `progdistill checkpoints verify` reads weights.
    """
    key = job_result_key(spec.id)
    try:
        found = read_record(store, key, JobResult)
        if found is None:
            return None
        # Its age starts again before the checkpoint is looked for: from now on gc spares both.
        result = publish_record(store, key, found)
        if isinstance(spec, TrainingSpec):
            require_checkpoint(store, result.output)
        elif isinstance(spec, PrepareEvaluatorSpec):
            require_evaluator(store, result.output)
        else:
            for picture in EvaluationRecord.model_validate_json(result.output).files:
                require_blob(store, picture)
    except LostInvariantError as error:
        print(f"{spec.label} is made again: {error}", file=sys.stderr, flush=True)
        store.delete(key)
        return None
    if isinstance(spec, EvaluateSpec):
        for measurement in EvaluationRecord.model_validate_json(result.output).measurements:
            publish_record(store, measurement.spec.key, measurement)
    return result


class Launcher(Protocol):
    """Where jobs run: child processes here, or pods of a cluster."""

    def launch(self, request: JobRequest) -> None:
        """Run a job to its end; its result is then in the store.

        Raises UsageError, Interrupted or ProgdistillError with the worker's last words.
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

    key = job_result_key(request.spec.id)
    known = cached_result(store, request.spec)
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
