"""Follows a submitted Job to its end: logs, status, and the failures that the Job controller cannot see."""

import threading
import time
from collections.abc import Callable
from typing import Final

from progdistill.errors import ProgdistillError, UsageError
from progdistill.jobs.kubernetes import diagnostics
from progdistill.jobs.kubernetes.api import ClusterApi, Object
from progdistill.jobs.kubernetes.diagnostics import PodExit, condition
from progdistill.jobs.kubernetes.log import PodLogs
from progdistill.jobs.kubernetes.manifest import JOB_LABEL, Submission
from progdistill.jobs.kubernetes.submit import has_result, job_path
from progdistill.jobs.kubernetes.waiting import WaitingLog
from progdistill.jobs.kubernetes.watch import WatchCache
from progdistill.jobs.local import JobLog
from progdistill.store.base import Store

POLL_SECONDS: Final = 1.0
MISSING_SECONDS: Final = 5.0  # before it counts as deleted: another driver may be replacing it


class JobMonitor:
    """Watches the Job of a submission and its pods."""

    def __init__(self, api: ClusterApi, submission: Submission, store: Store, log: JobLog) -> None:
        self._api, self._submission, self._store, self._log = api, submission, store, log
        self._changed = threading.Event()
        selector = f"{JOB_LABEL}={submission.name}"
        self._jobs = WatchCache(api, api.path("batch/v1", "jobs"), selector, self._changed)
        self._pods = WatchCache(api, api.path("v1", "pods"), selector, self._changed)
        self._pod_logs = PodLogs(api, log, self._pods)
        self._waiting = WaitingLog(api, submission, log)
        self._since: dict[str, float] = {}

    def wait(self, check_interrupted: Callable[[], None]) -> None:
        """Return when the job's result is in the store. `check_interrupted` raises to end the wait."""
        while not self._is_done():
            check_interrupted()
            self._changed.wait(POLL_SECONDS)
            self._changed.clear()

    def _is_done(self) -> bool:
        for error in (self._jobs.error, self._pods.error, *self._pod_logs.errors()):
            if error is not None:
                raise error
        if not (self._jobs.listed.is_set() and self._pods.listed.is_set()):
            return False
        self._pod_logs.follow()
        job = next(iter(self._jobs.present()), None)
        missing_seconds = self._seconds_of("missing Job", job is None)
        if job is None:
            return self._is_done_without_job(missing_seconds)
        if condition(job, "Complete") is not None:
            self._pod_logs.finish()
            self._delete(job)
            return True
        if condition(job, "Failed") is not None:
            self._pod_logs.finish()
            if has_result(self._store, self._submission):
                return True
            raise self._failure(job)
        self._waiting.update(job, self._pods.present())
        self._log_restarts()
        self._check_image(job)
        self._check_evictions(job)
        return False

    def _is_done_without_job(self, missing_seconds: float) -> bool:
        """Whether a second driver of the same job has cleaned up after its end."""
        if has_result(self._store, self._submission):
            return True
        if missing_seconds < MISSING_SECONDS:
            return False
        raise ProgdistillError(
            f"{self._submission.request.spec.label}: Job {self._submission.name} was deleted by someone else"
            " before it had a result. Its last snapshot is kept: run the same command again to continue"
        )

    def _failure(self, job: Object) -> ProgdistillError:
        where = (
            f"Its log is {self._log.path}; the Job is kept for {self._submission.cluster.ttl_hours:g} h"
            f" (kubectl -n {self._api.namespace} describe job {self._submission.name})."
        )
        return diagnostics.job_failure(self._submission, job, self._exits(), self._pod_logs.last_lines(), where)

    def _seconds_of(self, problem: str, exists: bool) -> float:
        """How long a problem has existed without interruption."""
        now = time.monotonic()
        self._since[problem] = self._since.get(problem, now) if exists else now
        return now - self._since[problem]

    def _exits(self) -> list[PodExit]:
        return [found for pod in self._pods.ever_seen() if (found := diagnostics.pod_exit(pod)) is not None]

    def _check_image(self, job: Object) -> None:
        problem = next(filter(None, map(diagnostics.image_pull_error, self._pods.present())), None)
        timeout = self._submission.cluster.image_pull_timeout_seconds
        if self._seconds_of("missing image", problem is not None) > timeout:
            self._delete(job)
            raise UsageError(
                f"{problem} (for {timeout:.0f} s; the Job is deleted): correct cluster.image, or name the registry's"
                " Secret in cluster.image_pull_secrets"
            )

    def _check_evictions(self, job: Object) -> None:
        """Bound evictions for the pod's own disk use: a worker that saves its snapshot exits with 130.

        The Job ignores that status, as it must when a node is drained.
        """
        evicted = [pod for pod in self._exits() if pod.is_own_eviction]
        if len(evicted) > self._submission.cluster.backoff_limit:
            self._pod_logs.finish()
            self._delete(job)
            raise diagnostics.eviction_failure(self._submission, evicted, f"Its log is {self._log.path}.")

    def _delete(self, job: Object) -> None:
        self._api.delete(job_path(self._api, self._submission.name), job["metadata"]["uid"])

    def _log_restarts(self) -> None:
        for pod in self._exits():
            if (message := diagnostics.restart_message(pod)) is not None:
                self._log.write_once(message, pod.pod)
