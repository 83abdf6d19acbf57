"""What the state of a job and its pods means to a person. Pure functions of the cluster's JSON."""

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from progdistill.errors import Interrupted, PeerLostError, ProgdistillError, UsageError
from progdistill.jobs.kubernetes.manifest import QUEUE_LABEL, Submission

Object = dict[str, Any]

KILLED: Final = 137
EVICTED: Final = "Evicted"
TERMINATED: Final = 143
_PULLING: Final = ("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull")
_NOT_ITS_OWN: Final = (PeerLostError.exit_status, Interrupted.exit_status, TERMINATED)
_INDEX: Final = "batch.kubernetes.io/job-completion-index"


class Ended(NamedTuple):
    """How a pod ended."""

    pod: str
    host: int
    exit_code: int
    reason: str
    finished_at: str
    disruption: str | None
    """Why the cluster took the pod away; None when it ended by itself."""

    message: str = ""
    """What the kubelet says of it, such as which limit it broke."""

    @property
    def is_its_own(self) -> bool:
        """Whether it failed for a reason of its own: not taken away, and not because another was."""
        excused = self.exit_code in _NOT_ITS_OWN and self.reason != EVICTED
        return self.disruption is None and self.exit_code != 0 and not excused


def name_of(item: Object) -> str:
    """The object's name."""
    return str(item["metadata"]["name"])


def index_of(pod: Object) -> int:
    """Which of the job's hosts the pod is."""
    metadata = pod["metadata"]
    return int({**metadata.get("labels", {}), **metadata.get("annotations", {})}.get(_INDEX, 0))


def has_begun(pod: Object) -> bool:
    """Whether the pod's process runs or has run: there is a log."""
    state = _container_state(pod)
    return "running" in state or "terminated" in state


def ended(pod: Object) -> Ended | None:
    """How the pod ended, None while it has not."""
    terminated = _container_state(pod).get("terminated")
    status = pod.get("status", {})
    disruption = _condition(pod, "DisruptionTarget")
    why = None if disruption is None else disruption.get("message") or disruption.get("reason") or "evicted"
    if terminated is None and status.get("phase") != "Failed":
        return None
    facts = terminated or {}
    reason, message = facts.get("reason") or status.get("reason") or "", str(status.get("message") or "")
    if status.get("reason") == EVICTED:
        # The cause; its container says no more than that it was killed. Without DisruptionTarget it broke a
        # limit of its own, and counts as failed.
        reason = EVICTED
    elif why is None and terminated is None:
        why = message or reason
    when = facts.get("finishedAt") or (disruption or {}).get("lastTransitionTime") or ""
    return Ended(name_of(pod), index_of(pod), facts.get("exitCode", -1), reason, when, why, message)


def condition_of(job: Object, *types: str) -> Object | None:
    """The job's first true condition of these types."""
    return next((found for kind in types if (found := _condition(job, kind)) is not None), None)


def first_failure(ends: Sequence[Ended]) -> Ended | None:
    """The pod that failed first by itself; the others failed because of it."""
    own = [end for end in ends if end.is_its_own]
    return min(own, key=lambda end: (end.finished_at, end.host), default=None)


def waiting(submission: Submission, job: Object, pods: Sequence[Object]) -> list[str]:
    """Why the job does not run, a line a reason; empty when nothing holds it up."""
    if job.get("spec", {}).get("suspend"):
        queue = submission.resources.queue or job["metadata"].get("labels", {}).get(QUEUE_LABEL)
        where = f"queued in {queue}: Kueue has not admitted it yet" if queue else "suspended"
        return [f"{submission.name} is {where}"]
    return list(dict.fromkeys(why for pod in pods if (why := _pod_waits(pod)) is not None))


def unpullable_image(pods: Sequence[Object]) -> str | None:
    """The image that a pod cannot get, with the reason; None when all is well."""
    for pod in pods:
        state = _container_state(pod).get("waiting", {})
        if state.get("reason") in _PULLING:
            image = pod["spec"]["containers"][0]["image"]
            return f"image {image} cannot be pulled ({state['reason']}): {state.get('message', '')}"
    return None


def restart(end: Ended) -> str | None:
    """What to say of a pod that ended so that all start again; None where that is no news."""
    if end.disruption is not None:
        return f"host {end.host} was taken away ({end.disruption}): all start again, at no cost of a retry"
    if end.is_its_own and end.exit_code != UsageError.exit_status:
        return f"host {end.host} {_how(end)}: all start again if retries are left"
    return None


def failure(
    submission: Submission, job: Object, ends: Sequence[Ended], last_lines: dict[str, list[str]], where: str
) -> ProgdistillError:
    """The error of a failed job: the interesting rank's last lines, how it ended, and what to change."""
    label, first = submission.request.spec.label, first_failure(ends)
    condition = condition_of(job, "Failed") or {}
    if condition.get("reason") == "DeadlineExceeded":
        return ProgdistillError(
            f"{label} took longer than cluster.deadline_hours = {submission.cluster.deadline_hours}; its last"
            f" snapshot is kept. {where}"
        )
    if first is None:
        return ProgdistillError(f"{label} failed: {condition.get('message', 'no reason given')}. {where}")
    words = "\n".join(last_lines.get(first.pod, []))
    if first.exit_code == UsageError.exit_status:
        return UsageError(words or f"{label}: {_how(first)}. {where}")
    many = submission.hosts > 1
    lines = f"Last lines{f' of host {first.host}' if many else ''}:\n{words}"
    bound = submission.cluster.max_gang_restarts
    tries = (
        f" (after {bound} restarts)" if condition.get("reason") == "BackoffLimitExceeded" and bound else ""
    )
    who = f"host {first.host} {_how(first)}" if many else _how(first)
    return ProgdistillError(f"{label} failed{tries}: {who}{_advice(submission, first)}. {where} {lines}")


def lost(
    submission: Submission, times: int, last: Ended, lines: Sequence[str], where: str
) -> ProgdistillError:
    """The error of a job whose ranks lose one another again and again, with the last words of one of them."""
    label, words = submission.request.spec.label, "\n".join(lines)
    if last.reason == EVICTED:
        return ProgdistillError(
            f"{label} got nowhere: {times} times in a row host {last.host} {_how(last)}"
            f"{_advice(submission, last)}. The Job is deleted, its last snapshot is kept. {where}"
        )
    return ProgdistillError(
        f"{label} got nowhere: {times} times in a row its ranks lost one another and all started again, no"
        " pod failed by itself or was taken away, and no newer snapshot was saved. The Job is deleted, its"
        " last snapshot is kept. As a rule pods do not reach one another: allow all TCP ports between them"
        f" (NetworkPolicy; rank 0 is met at {submission.port}, gloo and NCCL choose theirs), or name the"
        " network interface, as in --set cluster.env="
        """'{"GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": "eth0"}'"""
        f". {where} Last lines of host {last.host}:\n{words}"
    )


def _how(end: Ended) -> str:
    if end.reason == "OOMKilled":
        return "was killed for lack of memory"
    if end.reason == EVICTED:
        return f"was evicted ({end.message.strip().rstrip('.') or 'no reason given'})"
    if end.exit_code == KILLED:
        return "was killed (SIGKILL), as a rule for lack of memory"
    return f"ended with exit status {end.exit_code}" + (f" ({end.reason})" if end.reason else "")


def _advice(submission: Submission, end: Ended) -> str:
    resources = submission.resources
    if end.reason == EVICTED:
        if "shared-memory" in end.message:
            return _raised(submission, "shared_memory_gib", resources.shared_memory_gib)
        if re.search("ephemeral|emptydir|disk", end.message, re.IGNORECASE):
            return _raised(submission, "disk_gib", resources.disk_gib)
    if end.reason == "OOMKilled" or (end.reason != EVICTED and end.exit_code == KILLED):
        memory = _raised(submission, "memory_gib", resources.memory_gib)
        return f"{memory} or spread the batch over more hosts"
    return ""


def _raised(submission: Submission, setting: str, gib: float) -> str:
    return f": its limit is {gib:g} GiB, raise it with --set {submission.setting}.{setting}={2 * gib:g}"


def _pod_waits(pod: Object) -> str | None:
    scheduled = _condition(pod, "PodScheduled", status="False")
    if scheduled is not None and pod.get("status", {}).get("phase") == "Pending":
        return f"host {index_of(pod)} waits for a node: {_resources_lacking(scheduled.get('message', ''))}"
    state = _container_state(pod).get("waiting", {})
    reason = state.get("reason")
    if reason in _PULLING:
        return f"host {index_of(pod)} waits: {unpullable_image([pod])}"
    if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        return f"host {index_of(pod)} cannot start ({reason}): {state.get('message', '')}"
    return None


def _resources_lacking(message: str) -> str:
    lacking = re.findall(r"Insufficient ([\w./-]+)", message)
    said = f"no node has enough {' and '.join(dict.fromkeys(lacking)).rstrip('.')} free" if lacking else ""
    return f"{said} ({message})" if said else message


def _condition(item: Object, kind: str, status: str = "True") -> Object | None:
    conditions = item.get("status", {}).get("conditions") or []
    return next((c for c in conditions if c["type"] == kind and c["status"] == status), None)


def _container_state(pod: Object) -> Object:
    statuses = pod.get("status", {}).get("containerStatuses") or [{}]
    state: Object = statuses[0].get("state") or {}
    return state
