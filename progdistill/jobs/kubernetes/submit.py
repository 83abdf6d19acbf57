"""Creates the Job and its Service, or attaches to those that another driver has created."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from progdistill.errors import TransientError, UsageError
from progdistill.jobs.kubernetes.api import ClusterApi, ConflictError, Object
from progdistill.jobs.kubernetes.diagnostics import condition
from progdistill.jobs.kubernetes.manifest import STORE_ANNOTATION, Submission, job_manifest, service_manifest
from progdistill.jobs.local import JobLog
from progdistill.jobs.spec import JobResult
from progdistill.store.base import Store
from progdistill.store.documents import read_record
from progdistill.store.layout import job_result_key

DELETION_SECONDS: Final = 300.0
_POLL_SECONDS: Final = 0.5


def job_path(api: ClusterApi, name: str) -> str:
    """The path of a Job."""
    return api.path("batch/v1", "jobs", name)


def has_result(store: Store, submission: Submission) -> bool:
    """Whether the job's result is in the store."""
    return read_record(store, job_result_key(submission.request.spec.id), JobResult) is not None


class Submitter:
    """Submits one job. `check_interrupted` is called while waiting, and raises to end the wait."""

    def __init__(
        self, api: ClusterApi, submission: Submission, log: JobLog, check_interrupted: Callable[[], None]
    ) -> None:
        self._api, self._submission, self._log = api, submission, log
        self._check_interrupted = check_interrupted
        self._job_path = job_path(api, submission.name)

    def submit(self, store: Store) -> None:
        """Create the Job, or attach to the one that exists; a finished one without a result is replaced."""
        name = self._submission.name
        while True:
            job = self._api.get(self._job_path)
            if job is None:
                self.ensure_service(None)  # first: pods must not look up names before they exist
                with suppress(ConflictError):  # another driver was faster, or our response was lost
                    job = self._api.create(self._api.path("batch/v1", "jobs"), job_manifest(self._submission))
                    self._log.write(f"{name}: submitted to namespace {self._api.namespace}")
                    break
                continue
            self._require_same_store(job)
            if has_result(store, self._submission):
                return
            is_finished = condition(job, "Complete", "Failed") is not None
            if not is_finished and "deletionTimestamp" not in job["metadata"]:
                self._log.write(f"{name}: already running; attached to it")
                break
            self._log.write(f"{name}: an earlier attempt left no result; starting again")
            self._delete(self._job_path, job)
        self.ensure_service(job["metadata"]["uid"])

    def ensure_service(self, job_uid: str | None) -> None:
        """Create the Service that gives several pods their names; its owner is the Job once that exists."""
        if self._submission.hosts == 1:
            return
        services = self._api.path("v1", "services")
        path, wanted = f"{services}/{self._submission.name}", service_manifest(self._submission, job_uid)
        while True:
            found = self._api.get(path)
            if found is None:
                with suppress(ConflictError):
                    self._api.create(services, wanted)
                    return
                continue
            owners = [owner["uid"] for owner in found["metadata"].get("ownerReferences", [])]
            if owners == ([job_uid] if job_uid else []):
                return
            if not owners:
                self._api.patch(path, {"metadata": {"ownerReferences": wanted["metadata"]["ownerReferences"]}})
                return
            job = self._api.get(self._job_path)
            if job is not None and job["metadata"]["uid"] in owners:
                return  # another driver has just created the Job
            self._delete(path, found)  # of an earlier Job: garbage collection is about to delete it

    def _delete(self, path: str, found: Object) -> None:
        """Delete an object and wait until it and its dependents are gone: old and new must not coexist."""
        uid, deadline = found["metadata"]["uid"], time.monotonic() + DELETION_SECONDS
        self._api.delete(path, uid)
        while (left := self._api.get(path)) is not None and left["metadata"]["uid"] == uid:
            self._check_interrupted()
            if time.monotonic() > deadline:
                raise TransientError(f"{path} is still terminating after {DELETION_SECONDS:.0f} s")
            self._api.closed.wait(_POLL_SECONDS)

    def _require_same_store(self, job: Object) -> None:
        other = job["metadata"].get("annotations", {}).get(STORE_ANNOTATION)
        if other != self._submission.store_uri:
            raise UsageError(
                f"Job {self._submission.name} in namespace {self._api.namespace} already runs this job for another"
                f" store, {other}: use that store, wait until it ends, or set another cluster.namespace"
            )
