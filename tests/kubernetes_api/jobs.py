"""The Job controller (Kubernetes documentation, "Jobs"; pkg/controller/job/job_controller.go of 1.33).

Only Indexed Jobs with as many pods as completions; the server refuses others. The back-off before a
replacement pod is 10 s doubling up to 10 min in a cluster; here it is `backoff_seconds` doubling. Every pod
that ended without success counts for it, ignored ones too.
"""

import contextlib
import copy
import datetime
import secrets
from collections.abc import Callable, Iterable
from typing import NamedTuple

from tests.kubernetes_api.admission import check_pod
from tests.kubernetes_api.errors import ApiError
from tests.kubernetes_api.objects import (
    JOBS,
    PODS,
    Object,
    condition,
    controller_of,
    has_condition,
    is_finished,
    key_of,
    now,
    owner_reference,
    parse_time,
    set_condition,
    timestamp,
)
from tests.kubernetes_api.storage import Storage, drop_finalizer, record_event

TRACKING = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"

Times = list[datetime.datetime]


class _Failures(NamedTuple):
    """How often something failed since it last succeeded, and when it last did."""

    count: int
    last: datetime.datetime


class JobController:
    """Brings every job's pods to what its spec wants."""

    def __init__(self, storage: Storage, backoff_seconds: float) -> None:
        self.storage, self.backoff_seconds = storage, backoff_seconds
        self._pod_failures: dict[str, _Failures] = {}
        self._creation_failures: dict[str, _Failures] = {}

    def sync(self) -> Times:
        """One pass over all jobs; the times at which to look again without a change."""
        jobs = self.storage.list(JOBS)
        wake = [when for job in jobs for when in self._sync_job(job)]
        uids = {job["metadata"]["uid"] for job in jobs}
        for pod in self.storage.list(PODS):
            if controller_of(pod) not in uids:
                drop_finalizer(self.storage, PODS, pod, TRACKING)
        return wake

    def _sync_job(self, job: Object) -> Times:
        """One pass over one job: its status is changed in `job` and written once."""
        if _has_ended(job) or "deletionTimestamp" in job["metadata"]:
            self._release(self._pods(job))
            return self._expire(job) if _has_ended(job) else []
        before = copy.deepcopy(job)
        suspended = bool(job["spec"].get("suspend"))
        if suspended and not has_condition(job, "Suspended"):
            set_condition(job, "Suspended", "True", "JobSuspended", "Job suspended")
        if not suspended:
            job["status"].setdefault("startTime", timestamp())
        counted = self._count(job)
        wake = self._judge(job)
        if has_condition(job, "FailureTarget") or has_condition(job, "SuccessCriteriaMet"):
            self._wind_up(job)
        elif not suspended:
            wake += self._create_missing(job)
        self._report(job)
        job = self.storage.update(JOBS, *key_of(job), lambda target: target.update(status=job["status"]))
        if has_condition(job, "Failed") and not has_condition(before, "Failed"):
            failed = condition(job, "Failed")
            self._event(job, "Warning", failed["reason"], failed["message"])
        self._release(counted)
        return wake

    def _pods(self, job: Object, *tests: Callable[[Object], bool]) -> list[Object]:
        pods = [p for p in self.storage.list(PODS) if controller_of(p) == job["metadata"]["uid"]]
        return [pod for pod in pods if all(test(pod) for test in tests)]

    def _count(self, job: Object) -> list[Object]:
        """Take finished pods into the status, once each: what the tracking finalizer is for."""
        counted, uid, status = [], job["metadata"]["uid"], job["status"]
        for pod in self._pods(job, lambda pod: TRACKING in (pod["metadata"].get("finalizers") or [])):
            phase = pod["status"].get("phase")
            if phase == "Succeeded":
                self._pod_failures.pop(uid, None)
                done = read_indexes(status.get("completedIndexes", "")) | {index_of(pod)}
                status |= {"completedIndexes": written_indexes(done), "succeeded": len(done)}
            elif phase == "Failed" or (_is_terminating(pod) and not _replaces_when_failed(job)):
                self._pod_failures[uid] = _again(self._pod_failures.get(uid))
                self._count_failure(job, pod)
            else:
                continue
            counted.append(pod)
        return counted

    @staticmethod
    def _count_failure(job: Object, pod: Object) -> None:
        action, message = failure_action(job, pod)
        if action == "FailJob":
            _target_failure(job, "PodFailurePolicy", message)
        if action == "Ignore":
            return
        job["status"]["failed"] = job["status"].get("failed", 0) + 1
        if job["status"]["failed"] > job["spec"]["backoffLimit"]:
            _target_failure(job, "BackoffLimitExceeded", "Job has reached the specified backoff limit")

    def _release(self, pods: Iterable[Object]) -> None:
        for pod in pods:
            if is_finished(pod) or "deletionTimestamp" in pod["metadata"]:
                drop_finalizer(self.storage, PODS, pod, TRACKING)

    @staticmethod
    def _judge(job: Object) -> Times:
        """Whether the job has succeeded, or has exceeded its deadline."""
        spec, status = job["spec"], job["status"]
        if status.get("succeeded", 0) >= spec["completions"] and not has_condition(job, "FailureTarget"):
            text = "Reached expected number of succeeded pods"
            set_condition(job, "SuccessCriteriaMet", "True", "CompletionsReached", text)
        limit = spec.get("activeDeadlineSeconds")
        if limit is None or "startTime" not in status:
            return []
        deadline = parse_time(status["startTime"]) + datetime.timedelta(seconds=limit)
        if deadline > now():
            return [deadline]
        _target_failure(job, "DeadlineExceeded", "Job was active longer than specified deadline")
        return []

    def _wind_up(self, job: Object) -> None:
        """Delete what still runs; the job is Complete or Failed when all its pods have ended."""
        for pod in self._pods(job, _is_active):
            self._delete(pod)
        if self._pods(job, lambda pod: not is_finished(pod)):
            return
        failed = has_condition(job, "FailureTarget")
        cause = condition(job, "FailureTarget" if failed else "SuccessCriteriaMet")
        set_condition(job, "Failed" if failed else "Complete", "True", cause["reason"], cause["message"])
        if not failed:
            job["status"]["completionTime"] = timestamp()

    def _create_missing(self, job: Object) -> Times:
        """Create the pods of missing indexes; of two pods of one index the younger is deleted."""
        uid, taken = job["metadata"]["uid"], read_indexes(job["status"].get("completedIndexes", ""))
        for pod in sorted(self._pods(job, _is_active), key=lambda pod: int(pod["metadata"]["resourceVersion"])):
            if index_of(pod) in taken:
                self._delete(pod)
            taken.add(index_of(pod))
        if _replaces_when_failed(job):
            taken |= {index_of(pod) for pod in self._pods(job, _is_terminating)}
        missing = [index for index in range(job["spec"]["completions"]) if index not in taken]
        failures = (self._pod_failures.get(uid), self._creation_failures.get(uid))
        again = max(self._end_of_backoff(found) for found in failures)
        if missing and again > now():
            return [again]
        for index in missing:
            try:
                pod = new_pod(job, index)
                check_pod(self.storage, pod)
                self.storage.create(PODS, pod)
            except ApiError as problem:
                self._creation_failures[uid] = _again(self._creation_failures.get(uid))
                self._event(job, "Warning", "FailedCreate", f"Error creating: {problem.message}")
                return [self._end_of_backoff(self._creation_failures[uid])]
            self._event(job, "Normal", "SuccessfulCreate", f"Created pod: {pod['metadata']['name']}")
            self._creation_failures.pop(uid, None)
        return []

    def _end_of_backoff(self, failures: _Failures | None) -> datetime.datetime:
        if failures is None:
            return now()
        seconds = self.backoff_seconds * min(2 ** (failures.count - 1), 60)
        return failures.last + datetime.timedelta(seconds=seconds)

    def _delete(self, pod: Object) -> None:
        with contextlib.suppress(ApiError):
            self.storage.delete(PODS, *key_of(pod), uid=pod["metadata"]["uid"])

    def _report(self, job: Object) -> None:
        active, status = self._pods(job, _is_active), job["status"]
        status["ready"] = len([pod for pod in active if has_condition(pod, "Ready")])
        status["terminating"] = len(self._pods(job, _is_terminating))
        status["active"] = len(active)
        if not active:
            del status["active"]

    def _expire(self, job: Object) -> Times:
        """ttlSecondsAfterFinished (pkg/controller/ttlafterfinished): a foreground deletion."""
        ttl = job["spec"].get("ttlSecondsAfterFinished")
        if ttl is None or "deletionTimestamp" in job["metadata"]:
            return []
        ended = condition(job, "Complete") or condition(job, "Failed")
        when = parse_time(ended["lastTransitionTime"]) + datetime.timedelta(seconds=ttl)
        if when > now():
            return [when]
        self.storage.delete(JOBS, *key_of(job), policy="Foreground", uid=job["metadata"]["uid"])
        return []

    def _event(self, job: Object, kind: str, reason: str, message: str) -> None:
        record_event(self.storage, job, kind, reason, message, "job-controller")


def _again(failures: _Failures | None) -> _Failures:
    return _Failures(failures.count + 1 if failures else 1, now())


def _has_ended(job: Object) -> bool:
    return has_condition(job, "Complete") or has_condition(job, "Failed")


def _target_failure(job: Object, reason: str, message: str) -> None:
    """The job is to fail; the first reason stays."""
    if not has_condition(job, "FailureTarget") and not has_condition(job, "SuccessCriteriaMet"):
        set_condition(job, "FailureTarget", "True", reason, message)


def _is_active(pod: Object) -> bool:
    return not is_finished(pod) and "deletionTimestamp" not in pod["metadata"]


def _is_terminating(pod: Object) -> bool:
    return not is_finished(pod) and "deletionTimestamp" in pod["metadata"]


def _replaces_when_failed(job: Object) -> bool:
    return bool(job["spec"]["podReplacementPolicy"] == "Failed")


def failure_action(job: Object, pod: Object) -> tuple[str, str]:
    """The action for a failed pod (Count, Ignore or FailJob), and the message of a FailJob.

    pkg/controller/job/pod_failure_policy.go.
    """
    where = "/".join(key_of(pod))
    for index, rule in enumerate((job["spec"].get("podFailurePolicy") or {}).get("rules") or []):
        action, codes = rule["action"], rule.get("onExitCodes") or {}
        ending = f"matching {action} rule at index {index}"
        for container in pod["status"].get("containerStatuses") or []:
            code = container["state"].get("terminated", {}).get("exitCode", 0)
            applies = codes and code and codes.get("containerName") in (None, container["name"])
            if applies and (code in codes["values"]) == (codes["operator"] == "In"):
                failed = f"Container {container['name']} for pod {where} failed with exit code {code}"
                return action, f"{failed} {ending}"
        for pattern in rule.get("onPodConditions") or []:
            if condition(pod, pattern["type"]).get("status") == pattern["status"]:
                return action, f"Pod {where} has condition {pattern['type']} {ending}"
    return "Count", ""


def new_pod(job: Object, index: int) -> Object:
    """A pod of the job's template, with the names, labels and environment of its index."""
    template, name = copy.deepcopy(job["spec"]["template"]), job["metadata"]["name"]
    labels = {**template["metadata"]["labels"], INDEX: str(index)}
    annotations = {**(template["metadata"].get("annotations") or {}), INDEX: str(index)}
    metadata = {
        "name": f"{name}-{index}-{''.join(secrets.choice(_LETTERS) for _ in range(5))}",
        "namespace": job["metadata"]["namespace"],
        "labels": labels,
        "annotations": annotations,
        "ownerReferences": [owner_reference(job)],
        "finalizers": [TRACKING],
    }
    spec = template["spec"]
    spec.setdefault("hostname", f"{name}-{index}")
    source = {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX}']"}}
    spec["containers"][0].setdefault("env", []).append({"name": "JOB_COMPLETION_INDEX", "valueFrom": source})
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": {"phase": "Pending"}}


def index_of(pod: Object) -> int:
    """The completion index of a pod."""
    return int(pod["metadata"]["annotations"][INDEX])


def written_indexes(indexes: Iterable[int]) -> str:
    """`0,2-4`: how a status lists indexes."""
    runs: list[list[int]] = []
    for index in sorted(indexes):
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    separators = {1: "", 2: ","}
    return ",".join(
        str(run[0]) if len(run) == 1 else f"{run[0]}{separators.get(len(run), '-')}{run[-1]}" for run in runs
    )


def read_indexes(text: str) -> set[int]:
    """The inverse of `written_indexes`."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found
