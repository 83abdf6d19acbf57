"""The Job controller (Kubernetes documentation, "Jobs"; pkg/controller/job/job_controller.go of 1.33).

Left out, and refused by the server when a manifest asks for it: backoffLimitPerIndex with FailIndex,
successPolicy, managedBy, restartPolicy OnFailure. The back-off before a replacement pod is 10 s doubling
up to 6 min in a cluster; here it is `backoff_seconds` doubling.
"""

import contextlib
import copy
import datetime
from collections.abc import Iterable

from tests.kubernetes_api import clock, ownership
from tests.kubernetes_api.conditions import condition, has_condition, set_condition
from tests.kubernetes_api.errors import ApiError
from tests.kubernetes_api.job_failures import judge
from tests.kubernetes_api.job_pods import (
    TRACKING,
    index_of,
    is_active,
    is_failed,
    is_ready,
    is_terminating,
    new_pod,
    pods_of,
    read,
    written,
)
from tests.kubernetes_api.recorder import record
from tests.kubernetes_api.resources import JOBS, PODS
from tests.kubernetes_api.storage import Object, Storage

_COMPONENT = "job-controller"


class JobController:
    """Brings every job's pods to what its spec wants."""

    def __init__(self, storage: Storage, backoff_seconds: float) -> None:
        self.storage = storage
        self.backoff_seconds = backoff_seconds
        self._failures: dict[str, tuple[int, datetime.datetime]] = {}
        """uid -> consecutive failures, time of the last."""
        self._refusals: dict[str, tuple[int, datetime.datetime]] = {}
        """The same of pods that could not be created."""

    def sync(self) -> list[datetime.datetime]:
        """One pass over all jobs; the times at which to look again without a change."""
        wake: list[datetime.datetime] = []
        uids = set()
        for job in self.storage.list(JOBS):
            uids.add(job["metadata"]["uid"])
            wake += self._sync_job(job)
        for pod in self.storage.list(PODS):
            orphaned = ownership.controller_of(pod) not in uids
            if orphaned and TRACKING in (pod["metadata"].get("finalizers") or []):
                ownership.drop_finalizer(self.storage, PODS, pod, TRACKING)
        return wake

    def _sync_job(self, job: Object) -> list[datetime.datetime]:
        """One pass over one job: its status is changed in `job` and written once, as it really is."""
        if finished(job) or "deletionTimestamp" in job["metadata"]:
            for pod in pods_of(self.storage, job):
                self._count_off(pod)
            return self._expire(job) if finished(job) else []
        before = copy.deepcopy(job)
        self._start(job)
        counted = self._count(job)
        self._judge_success(job)
        self._judge_deadline(job)
        wake: list[datetime.datetime] = []
        if has_condition(job, "FailureTarget") or has_condition(job, "SuccessCriteriaMet"):
            self._wind_up(job)
        else:
            wake = self._manage(job)
        self._report(job)
        metadata = job["metadata"]
        job = self.storage.update(
            JOBS, metadata["namespace"], metadata["name"], lambda target: target.update(status=job["status"])
        )
        self._announce(before, job)
        for pod in counted:
            self._count_off(pod)
        return wake + self._deadline(job)

    def _announce(self, before: Object, job: Object) -> None:
        """The events of what has changed."""
        if has_condition(job, "Suspended") and not has_condition(before, "Suspended"):
            record(self.storage, job, "Normal", "Suspended", "Job suspended", _COMPONENT)
        if has_condition(before, "Suspended") and not has_condition(job, "Suspended"):
            record(self.storage, job, "Normal", "Resumed", "Job resumed", _COMPONENT)
        if has_condition(job, "Complete"):
            record(self.storage, job, "Normal", "Completed", "Job completed", _COMPONENT)
        if has_condition(job, "Failed"):
            failed = condition(job, "Failed")
            record(self.storage, job, "Warning", failed["reason"], failed["message"], _COMPONENT)

    def _start(self, job: Object) -> None:
        """startTime, and the Suspended condition in both directions."""
        suspend, status = bool(job["spec"].get("suspend")), job["status"]
        if suspend and not has_condition(job, "Suspended"):
            set_condition(job, "Suspended", "True", "JobSuspended", "Job suspended")
            status.pop("startTime", None)
        if not suspend and has_condition(job, "Suspended"):
            set_condition(job, "Suspended", "False", "JobResumed", "Job resumed")
        if not suspend:
            status.setdefault("startTime", clock.stamp())

    def _count(self, job: Object) -> list[Object]:
        """Take finished pods into the status, once each: what the tracking finalizer is for."""
        counted = []
        for pod in pods_of(self.storage, job):
            if TRACKING not in (pod["metadata"].get("finalizers") or []):
                continue
            if pod["status"].get("phase") == "Succeeded":
                self._failures.pop(job["metadata"]["uid"], None)
                _add_success(job, index_of(pod))
            elif is_failed(job, pod):
                self._count_failure(job, pod)
            else:
                continue
            counted.append(pod)
        return counted

    def _count_failure(self, job: Object, pod: Object) -> None:
        action, message = judge(job, pod)
        if action == "FailJob":
            _target_failure(job, "PodFailurePolicy", message)
        if action == "Ignore":
            return
        uid = job["metadata"]["uid"]
        times, _ = self._failures.get(uid, (0, None))
        self._failures[uid] = (times + 1, clock.now())
        job["status"]["failed"] = job["status"].get("failed", 0) + 1
        if job["status"]["failed"] > job["spec"]["backoffLimit"]:
            _target_failure(job, "BackoffLimitExceeded", "Job has reached the specified backoff limit")

    def _count_off(self, pod: Object) -> None:
        if pod["status"].get("phase") in ("Succeeded", "Failed") or "deletionTimestamp" in pod["metadata"]:
            ownership.drop_finalizer(self.storage, PODS, pod, TRACKING)

    def _judge_success(self, job: Object) -> None:
        wanted = job["spec"].get("completions")
        done = job["status"].get("succeeded", 0)
        pods = pods_of(self.storage, job)
        if wanted is None:  # a work queue: done when one succeeded and none is left
            met = done > 0 and not any(is_active(pod) or is_terminating(pod) for pod in pods)
        else:
            met = done >= wanted
        if met and not has_condition(job, "FailureTarget"):
            text = "Reached expected number of succeeded pods"
            set_condition(job, "SuccessCriteriaMet", "True", "CompletionsReached", text)

    def _judge_deadline(self, job: Object) -> None:
        limit, start = job["spec"].get("activeDeadlineSeconds"), job["status"].get("startTime")
        if (
            limit is not None
            and start
            and not job["spec"].get("suspend")
            and clock.seconds_since(start) >= limit
        ):
            _target_failure(job, "DeadlineExceeded", "Job was active longer than specified deadline")

    def _deadline(self, job: Object) -> list[datetime.datetime]:
        limit, start = job["spec"].get("activeDeadlineSeconds"), job["status"].get("startTime")
        if limit is None or not start or finished(job):
            return []
        return [clock.parse(start) + datetime.timedelta(seconds=limit)]

    def _wind_up(self, job: Object) -> None:
        """Delete what still runs; the job is Complete or Failed when all its pods have ended."""
        pods = pods_of(self.storage, job)
        self._delete([pod for pod in pods if is_active(pod)], job)
        left = [pod for pod in pods_of(self.storage, job) if is_active(pod) or is_terminating(pod)]
        if left:
            return
        failure = condition(job, "FailureTarget")
        target_condition = (
            failure if failure.get("status") == "True" else condition(job, "SuccessCriteriaMet")
        )
        kind = "Failed" if target_condition is failure else "Complete"
        reason, message = target_condition["reason"], target_condition["message"]

        set_condition(job, kind, "True", reason, message)
        if kind == "Complete":
            job["status"]["completionTime"] = clock.stamp()

    def _manage(self, job: Object) -> list[datetime.datetime]:
        """Create missing pods, delete superfluous ones."""
        spec, status = job["spec"], job["status"]
        pods = pods_of(self.storage, job)
        active = [pod for pod in pods if is_active(pod)]
        if spec.get("suspend"):
            self._delete(active, job)
            return []
        parallelism, completions = spec.get("parallelism", 1), spec.get("completions")
        if completions is None:
            wanted = len(active) if status.get("succeeded", 0) > 0 else parallelism
        else:
            wanted = min(parallelism, completions - status.get("succeeded", 0))
        active = self._trim(job, active, wanted)
        held = (
            len([p for p in pods if is_terminating(p)]) if spec.get("podReplacementPolicy") == "Failed" else 0
        )
        missing = max(0, wanted - len(active) - held)
        again = max(self._again(self._failures, job), self._again(self._refusals, job))
        if missing and again > clock.now():
            return [again]
        self._create(job, missing, pods, active)
        return [self._again(self._refusals, job)] if job["metadata"]["uid"] in self._refusals else []

    def _again(self, counts: dict[str, tuple[int, datetime.datetime]], job: Object) -> datetime.datetime:
        """When the back-off of a job is over: twice as long each time."""
        times, last = counts.get(job["metadata"]["uid"], (0, clock.now()))
        wait = self.backoff_seconds * 2 ** min(times - 1, 10) if times else 0
        return last + datetime.timedelta(seconds=wait)

    def _trim(self, job: Object, active: list[Object], wanted: int) -> list[Object]:
        """Too many pods: duplicates of an index go first, then those that have come least far."""
        excess = len(active) - max(wanted, 0)
        ranked = sorted(active, key=_progress, reverse=True)
        if job["spec"].get("completionMode") == "Indexed":
            done = read(job["status"].get("completedIndexes", ""))
            kept: dict[int | None, Object] = {}
            for pod in ranked:
                if index_of(pod) not in done:
                    kept.setdefault(index_of(pod), pod)
            singles = [id(pod) for pod in kept.values()]
            ranked.sort(key=lambda pod: id(pod) not in singles)
        surplus = ranked[len(ranked) - excess :] if excess > 0 else []
        self._delete(surplus, job)
        return [pod for pod in active if pod not in surplus]

    def _create(self, job: Object, missing: int, pods: list[Object], active: list[Object]) -> None:
        indexes: Iterable[int | None] = [None] * missing
        if job["spec"].get("completionMode") == "Indexed":
            taken = read(job["status"].get("completedIndexes", "")) | {index_of(pod) for pod in active}
            if job["spec"].get("podReplacementPolicy") == "Failed":
                taken |= {index_of(pod) for pod in pods if is_terminating(pod)}
            indexes = [index for index in range(job["spec"]["completions"]) if index not in taken][:missing]
        for index in indexes:
            try:
                pod = self.storage.create(PODS, new_pod(job, index))
            except ApiError as problem:
                times, _ = self._refusals.get(job["metadata"]["uid"], (0, None))
                self._refusals[job["metadata"]["uid"]] = (times + 1, clock.now())
                message = f"Error creating: {problem.message}"
                record(self.storage, job, "Warning", "FailedCreate", message, _COMPONENT)
                return
            self._refusals.pop(job["metadata"]["uid"], None)
            message = f"Created pod: {pod['metadata']['name']}"
            record(self.storage, job, "Normal", "SuccessfulCreate", message, _COMPONENT)

    def _delete(self, pods: list[Object], job: Object) -> None:
        for pod in pods:
            metadata = pod["metadata"]
            with contextlib.suppress(ApiError):
                self.storage.delete(PODS, metadata["namespace"], metadata["name"], uid=metadata["uid"])
                message = f"Deleted pod: {metadata['name']}"
                record(self.storage, job, "Normal", "SuccessfulDelete", message, _COMPONENT)

    def _report(self, job: Object) -> None:
        """active, ready and terminating as they are now."""
        pods = pods_of(self.storage, job)
        active = [pod for pod in pods if is_active(pod)]

        status = job["status"]
        status["ready"] = len([pod for pod in active if is_ready(pod)])
        status["terminating"] = len([pod for pod in pods if is_terminating(pod)])
        status["uncountedTerminatedPods"] = {}
        if active:
            status["active"] = len(active)
        else:
            status.pop("active", None)

    def _expire(self, job: Object) -> list[datetime.datetime]:
        """ttlSecondsAfterFinished (pkg/controller/ttlafterfinished): a foreground deletion."""
        ttl = job["spec"].get("ttlSecondsAfterFinished")
        if ttl is None or "deletionTimestamp" in job["metadata"]:
            return []
        ended = next(c for c in job["status"]["conditions"] if c["type"] in ("Complete", "Failed"))
        when = clock.parse(ended["lastTransitionTime"]) + datetime.timedelta(seconds=ttl)
        if when > clock.now():
            return [when]
        metadata = job["metadata"]
        with contextlib.suppress(ApiError):
            self.storage.delete(
                JOBS, metadata["namespace"], metadata["name"], policy="Foreground", uid=metadata["uid"]
            )
        return []


def finished(job: Object) -> bool:
    """Complete or Failed."""
    return has_condition(job, "Complete") or has_condition(job, "Failed")


def _target_failure(job: Object, reason: str, message: str) -> None:
    """The job is to fail; the first reason stays."""
    if not has_condition(job, "FailureTarget") and not has_condition(job, "SuccessCriteriaMet"):
        set_condition(job, "FailureTarget", "True", reason, message)


def _add_success(job: Object, index: int | None) -> None:
    status = job["status"]
    if job["spec"].get("completionMode") != "Indexed":
        status["succeeded"] = status.get("succeeded", 0) + 1
        return
    done = read(status.get("completedIndexes", "")) | ({index} if index is not None else set())
    status["completedIndexes"] = written(done)
    status["succeeded"] = len(done)


def _progress(pod: Object) -> tuple[bool, bool, bool, int]:
    """controller.ActivePods: assigned, running and ready pods rank higher, and older ones among equals."""
    return (
        "nodeName" in pod["spec"],
        pod["status"].get("phase") == "Running",
        is_ready(pod),
        -int(pod["metadata"]["resourceVersion"]),
    )
