"""Turns the state of a Job and its pods into messages and errors. Pure functions of the API's JSON."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from progdistill.config.pod_patch import CONTAINER
from progdistill.errors import Interrupted, NonFiniteError, PeerLostError, ProgdistillError, UsageError
from progdistill.jobs.kubernetes.api import Object
from progdistill.jobs.kubernetes.manifest import QUEUE_LABEL, Submission

EVICTED: Final = "Evicted"
_SIGBUS, _SIGKILL, _SIGTERM = 135, 137, 143  # as a container reports them: 128 + the signal
_PULL_ERRORS: Final = ("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull")
_START_ERRORS: Final = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_CAUSED_BY_OTHERS: Final = (PeerLostError.exit_status, Interrupted.exit_status, _SIGTERM)
_INDEX: Final = "batch.kubernetes.io/job-completion-index"


class PodExit(NamedTuple):
    """How a pod ended."""

    pod: str
    host: int
    exit_code: int
    reason: str
    finished_at: str
    disruption: str | None  # why the cluster removed the pod; None if it ended by itself
    message: str = ""  # the kubelet's, such as which limit the pod exceeded

    @property
    def is_own_failure(self) -> bool:
        """Whether the pod failed by itself: not disrupted, and not because another pod was."""
        excused = self.exit_code in _CAUSED_BY_OTHERS and self.reason != EVICTED
        return self.disruption is None and self.exit_code != 0 and not excused

    @property
    def is_own_eviction(self) -> bool:
        """Whether the kubelet evicted the pod because it exceeded a limit of its own."""
        return self.disruption is None and self.reason == EVICTED


def completion_index(pod: Object) -> int:
    """Which host of the job the pod is."""
    metadata = pod["metadata"]
    return int({**metadata.get("labels", {}), **metadata.get("annotations", {})}.get(_INDEX, 0))


def has_started(pod: Object) -> bool:
    """Whether the pod's container runs or has run, so that it has a log."""
    state = _container_state(pod)
    return "running" in state or "terminated" in state


def is_troubled(pod: Object) -> bool:
    """Whether a pod has not started, is not ready although it runs, or is being deleted."""
    unready = condition(pod, "Ready", status="False") is not None
    return not has_started(pod) or unready or "deletionTimestamp" in pod["metadata"]


def host_on_node(pod: Object) -> str:
    """The host, and its node if it has one."""
    node = pod["spec"].get("nodeName")
    return f"host {completion_index(pod)}" + (f" on node {node}" if node else "")


def condition(item: Object, *types: str, status: str = "True") -> Object | None:
    """The first condition of these types that has this status."""
    conditions: list[Object] = item.get("status", {}).get("conditions") or []
    return next((found for found in conditions if found["type"] in types and found["status"] == status), None)


def pod_exit(pod: Object) -> PodExit | None:
    """How the pod ended; None if it has not."""
    terminated, status = _container_state(pod).get("terminated"), pod.get("status", {})
    if terminated is None and status.get("phase") != "Failed":
        return None
    facts, target = terminated or {}, condition(pod, "DisruptionTarget") or {}
    disruption = (target.get("message") or target.get("reason") or "evicted") if target else None
    reason, message = facts.get("reason") or status.get("reason") or "", str(status.get("message") or "")
    if status.get("reason") == EVICTED:
        # The container says only that it was killed. Without DisruptionTarget the pod exceeded a limit of its own.
        reason = EVICTED
    elif disruption is None and terminated is None:
        disruption = message or reason
    return PodExit(
        pod=pod["metadata"]["name"],
        host=completion_index(pod),
        exit_code=facts.get("exitCode", -1),
        reason=reason,
        finished_at=facts.get("finishedAt") or target.get("lastTransitionTime") or "",
        disruption=disruption,
        message=message,
    )


def first_failure(exits: Sequence[PodExit]) -> PodExit | None:
    """The first pod that failed by itself: the others failed because of it."""
    own = [pod for pod in exits if pod.is_own_failure]
    return min(own, key=lambda pod: (pod.finished_at, pod.host), default=None)


def waiting_reasons(submission: Submission, job: Object, pods: Sequence[Object]) -> list[str]:
    """Why the job does not run, one line per reason; empty if it runs."""
    if job.get("spec", {}).get("suspend"):
        queue = submission.resources.queue or job["metadata"].get("labels", {}).get(QUEUE_LABEL)
        state = f"queued in {queue}: Kueue has not admitted it yet" if queue else "suspended"
        return [f"{submission.name} is {state}"]
    reasons = (waiting_reason(pod) for pod in pods)
    return list(dict.fromkeys(reason for reason in reasons if reason is not None))


def waiting_reason(pod: Object) -> str | None:
    """Why the pod does not run; None if it runs, or is about to."""
    host = f"host {completion_index(pod)}"
    unscheduled = condition(pod, "PodScheduled", status="False")
    if unscheduled is not None and pod.get("status", {}).get("phase") == "Pending":
        message = unscheduled.get("message", "")
        lacking = dict.fromkeys(re.findall(r"Insufficient ([\w./-]+)", message))
        resources = " and ".join(lacking).rstrip(".")
        why = f"no node has enough {resources} free ({message})" if lacking else message
        return f"{host} is waiting for a node: {why}"
    if (error := image_pull_error(pod)) is not None:
        return f"{host} is waiting: {error}"
    waiting = _container_state(pod).get("waiting", {})
    if waiting.get("reason") in _START_ERRORS:
        return f"{host} cannot start ({waiting['reason']}): {waiting.get('message', '')}"
    return None


def image_pull_error(pod: Object) -> str | None:
    """Which image cannot be pulled, and why; None if it can."""
    waiting = _container_state(pod).get("waiting", {})
    if waiting.get("reason") not in _PULL_ERRORS:
        return None
    image = next(item["image"] for item in pod["spec"]["containers"] if item["name"] == CONTAINER)
    return f"image {image} cannot be pulled ({waiting['reason']}): {waiting.get('message', '')}"


def restart_message(pod: PodExit) -> str | None:
    """What to log about a pod that ended and is replaced; None if that is not worth a line."""
    if pod.disruption is not None:
        return f"host {pod.host} was disrupted ({pod.disruption}): its pod is replaced, at no cost of a retry"
    if pod.is_own_failure and pod.exit_code not in (UsageError.exit_status, NonFiniteError.exit_status):
        return f"host {pod.host} {_outcome(pod)}: its pod is replaced if retries are left"
    return None


def job_failure(
    submission: Submission, job: Object, exits: Sequence[PodExit], last_lines: dict[str, list[str]], where: str
) -> ProgdistillError:
    """The error of a failed Job, whose pods ended so; `where` is a sentence that says where its log is."""
    label, first = submission.request.spec.label, first_failure(exits)
    failed = condition(job, "Failed") or {}
    if failed.get("reason") == "DeadlineExceeded":
        limit = f"cluster.deadline_hours = {submission.cluster.deadline_hours}"
        return ProgdistillError(f"{label} exceeded {limit}; its last snapshot is kept. {where}")
    if first is None:
        return ProgdistillError(f"{label} failed: {failed.get('message', 'no reason given')}. {where}")
    lines = "\n".join(last_lines.get(first.pod, []))
    if first.exit_code == UsageError.exit_status:
        return UsageError(lines or f"{label}: {_outcome(first)}. {where}")
    if first.exit_code == NonFiniteError.exit_status:
        return NonFiniteError(f"{lines}\n{where}")
    retries = submission.cluster.backoff_limit if failed.get("reason") == "BackoffLimitExceeded" else 0
    after, host, of_host = f" after {retries} retries" if retries else "", "", ""
    if submission.hosts > 1:
        host, of_host = f"host {first.host} ", f" of host {first.host}"
    return ProgdistillError(
        f"{label} failed{after}: {host}{_outcome(first)}{_advice(submission, first)}. {where}"
        f" Last lines{of_host}:\n{lines}"
    )


def eviction_failure(submission: Submission, evicted: Sequence[PodExit], where: str) -> ProgdistillError:
    """The error of a job whose pods were evicted too often for exceeding their own limits."""
    label, last = submission.request.spec.label, max(evicted, key=lambda pod: pod.finished_at)
    return ProgdistillError(
        f"{label} failed: pods were evicted {len(evicted)} times; host {last.host} {_outcome(last)}"
        f"{_advice(submission, last)}. The Job is deleted, its last snapshot is kept. {where}"
    )


def _outcome(pod: PodExit) -> str:
    if pod.reason == "OOMKilled":
        return "ran out of memory (OOMKilled)"
    if pod.reason == EVICTED:
        return f"was evicted ({pod.message.strip().rstrip('.') or 'no reason given'})"
    if pod.exit_code == _SIGKILL:
        return "was killed (SIGKILL), most likely for lack of memory"
    if pod.exit_code == _SIGBUS:
        return "was killed (SIGBUS), most likely for lack of shared memory"
    return f"failed with exit status {pod.exit_code}" + (f" ({pod.reason})" if pod.reason else "")


def _advice(submission: Submission, pod: PodExit) -> str:
    """Which limit to raise, if it was one."""
    if pod.reason == EVICTED:
        if "shared-memory" in pod.message:
            return _raise_limit(submission, "shared_memory_gib")
        is_disk = re.search("ephemeral|emptydir|disk", pod.message, re.IGNORECASE)
        return _raise_limit(submission, "disk_gib") if is_disk else ""
    if pod.reason == "OOMKilled" or pod.exit_code == _SIGKILL:
        return f"{_raise_limit(submission, 'memory_gib')} or spread the batch over more hosts"
    return _raise_limit(submission, "shared_memory_gib") if pod.exit_code == _SIGBUS else ""


def _raise_limit(submission: Submission, name: str) -> str:
    gib: float = getattr(submission.resources, name)
    return f": its limit is {gib:g} GiB, raise it with --set {submission.setting}.{name}={2 * gib:g}"


def _container_state(pod: Object) -> Object:
    """The state of the worker's container: others may have been injected beside it."""
    statuses = pod.get("status", {}).get("containerStatuses") or []
    states: list[Object] = [status["state"] for status in statuses if status["name"] == CONTAINER]
    return states[0] if states else {}
