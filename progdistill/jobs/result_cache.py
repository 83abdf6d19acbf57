"""The cache of job results: `complete` returns a job's result from the store, or launches the job."""

import logging
from datetime import UTC, datetime
from typing import Literal, NamedTuple, Protocol

from progdistill.data.manifest import read_manifest
from progdistill.errors import LostInvariantError
from progdistill.features.manifest import require_evaluator
from progdistill.jobs.events import JobEvent, Listener, ignore
from progdistill.jobs.spec import (
    CheckpointOutput,
    DatasetOutput,
    EvaluationOutput,
    EvaluatorOutput,
    JobRequest,
    JobResult,
    JobSpec,
)
from progdistill.registry.checkpoint import require_checkpoint
from progdistill.store.base import Store
from progdistill.store.documents import publish_record, read_record, require_blob
from progdistill.store.layout import job_result_key
from progdistill.store.open import open_store

logger = logging.getLogger(__name__)


def cached_result(store: Store, spec: JobSpec) -> JobResult | None:
    """Return the result of a finished job; None where the job has to run, for the first time or again.

    A result that is damaged, or whose checkpoint, evaluator or images are missing, is removed, so that the
    job runs again. Of files only the size is checked: `progdistill checkpoints verify` reads them.
    """
    key = job_result_key(spec.id)
    try:
        found = read_record(store, key, JobResult)
        if found is None:
            return None
        # Its age starts again before what it refers to is checked, so garbage collection spares both.
        result = publish_record(store, key, found)
        match result.output:
            case CheckpointOutput(checkpoint_id=checkpoint_id):
                require_checkpoint(store, checkpoint_id)
            case EvaluatorOutput(evaluator_id=evaluator_id):
                require_evaluator(store, evaluator_id)
            case EvaluationOutput(record=record):
                for file in record.files:
                    require_blob(store, file)
            case DatasetOutput(fingerprint=fingerprint, location=location):
                manifest = read_manifest(open_store(location))
                if manifest is None or manifest.fingerprint != fingerprint:
                    raise LostInvariantError(f"{location} no longer holds that dataset")
    except LostInvariantError as error:
        logger.warning("%s runs again: %s", spec.label, error)
        store.delete(key)
        return None
    if isinstance(result.output, EvaluationOutput):
        for measurement in result.output.record.measurements:
            publish_record(store, measurement.spec.key, measurement)
    return result


class Launcher(Protocol):
    """Where jobs run: child processes on this machine, or pods of a cluster."""

    def launch(self, request: JobRequest) -> None:
        """Run a job until its result is in the store.

        Raises:
            UsageError: If the job's request is wrong.
            Interrupted: If a signal stopped the job; it saved a snapshot.
            ProgdistillError: If the job failed; the message ends with the last lines of its log.
        """


class JobOutcome(NamedTuple):
    """A job's result, and whether the store had it already."""

    result: JobResult
    reused: bool


def complete(store: Store, launcher: Launcher, request: JobRequest, on_event: Listener = ignore) -> JobOutcome:
    """Return the result of a job; launch it unless the store has the result.

    Args:
        store: The store of the request.
        launcher: Runs the job.
        request: The job.
        on_event: Called when the job is found, started, finished or failed.

    Raises:
        ProgdistillError: If the job failed or was interrupted (see `Launcher.launch`).
    """
    spec = request.spec

    def emit_state(state: Literal["found", "started", "finished", "failed"]) -> None:
        on_event(JobEvent(at=datetime.now(UTC), job_id=spec.id, label=spec.label, state=state))

    cached = cached_result(store, spec)
    if cached is not None:
        emit_state("found")
        return JobOutcome(cached, reused=True)
    emit_state("started")
    try:
        launcher.launch(request)
    except BaseException:
        emit_state("failed")
        raise
    emit_state("finished")
    key = job_result_key(spec.id)
    result = read_record(store, key, JobResult)
    if result is None:
        raise LostInvariantError(f"{spec.label} succeeded but left no result at {store.uri}/{key}")
    return JobOutcome(result, reused=False)
