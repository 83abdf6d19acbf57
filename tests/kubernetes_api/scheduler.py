"""Puts pods on nodes, or says why none fits (the filters of kube-scheduler, no preemption)."""

from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, NamedTuple

from tests.kubernetes_api.conditions import set_condition
from tests.kubernetes_api.nodes import requested
from tests.kubernetes_api.quantity import parse
from tests.kubernetes_api.recorder import record
from tests.kubernetes_api.resources import NODES, PODS
from tests.kubernetes_api.storage import Object, Storage

_FINISHED = ("Succeeded", "Failed")


def schedule(storage: Storage) -> None:
    """Bind every pending pod that fits; mark the others Unschedulable."""
    pods = storage.list(PODS)
    for pod in pods:
        spec, metadata = pod["spec"], pod["metadata"]
        if spec.get("nodeName") or metadata.get("deletionTimestamp") or spec.get("schedulingGates"):
            continue
        if pod["status"].get("phase") in _FINISHED:
            continue
        nodes = storage.list(NODES)
        others = storage.list(PODS)
        obstacles = {node["metadata"]["name"]: _obstacles(pod, node, others) for node in nodes}
        fitting = [name for name, found in obstacles.items() if not found.reasons]
        if fitting:
            _bind(storage, pod, fitting[0])
        else:
            _refuse(storage, pod, list(obstacles.values()))


class _Obstacles(NamedTuple):
    reasons: list[str]
    lasting: bool = True
    """Whether it would not help if other pods went."""


def _obstacles(pod: Object, node: Object, pods: list[Object]) -> _Obstacles:
    """Why the pod cannot run there; the first filter that fails names its reasons."""
    labels = node["metadata"]["labels"]
    if any(labels.get(key) != value for key, value in (pod["spec"].get("nodeSelector") or {}).items()):
        return _Obstacles(["node(s) didn't match Pod's node affinity/selector"])
    for taint in node["spec"].get("taints") or []:
        if taint["effect"] != "PreferNoSchedule" and not _tolerated(
            taint, pod["spec"].get("tolerations") or []
        ):
            return _Obstacles([f"node(s) had untolerated taint {{{taint['key']}: {taint['value']}}}"])
    whole = {name: parse(value) for name, value in node["status"]["allocatable"].items()}
    free = dict(whole)
    for other in pods:
        if (
            other["spec"].get("nodeName") == node["metadata"]["name"]
            and other["status"]["phase"] not in _FINISHED
        ):
            for name, amount in requested(other).items():
                free[name] = free.get(name, Fraction(0)) - amount
    wanted = requested(pod)
    short = sorted(name for name, amount in wanted.items() if amount > free.get(name, Fraction(0)))
    reasons = ["Too many pods" if name == "pods" else f"Insufficient {name}" for name in short]
    return _Obstacles(reasons, any(wanted[name] > whole.get(name, Fraction(0)) for name in short))


def _tolerated(taint: dict[str, str], tolerations: list[dict[str, Any]]) -> bool:
    for toleration in tolerations:
        if toleration.get("effect") not in (None, "", taint["effect"]):
            continue
        exists = toleration.get("operator", "Equal") == "Exists"
        if exists and toleration.get("key") in (None, "", taint["key"]):
            return True
        if not exists and (toleration.get("key"), toleration.get("value", "")) == (
            taint["key"],
            taint["value"],
        ):
            return True
    return False


def _bind(storage: Storage, pod: Object, node: str) -> None:
    def change(target: Object) -> None:
        target["spec"]["nodeName"] = node
        set_condition(target, "PodScheduled", "True")

    metadata = pod["metadata"]
    bound = storage.update(PODS, metadata["namespace"], metadata["name"], change)
    where = f"{metadata['namespace']}/{metadata['name']}"
    message = f"Successfully assigned {where} to {node}"
    record(storage, bound, "Normal", "Scheduled", message, "default-scheduler")


def _refuse(storage: Storage, pod: Object, obstacles: list[_Obstacles]) -> None:
    count = len(obstacles)
    message = "no nodes available to schedule pods"
    if count:
        verdicts = [
            "Preemption is not helpful for scheduling"
            if found.lasting
            else "No preemption victims found for incoming pod"
            for found in obstacles
        ]
        unavailable = f"0/{count} nodes are available"
        listed = _counted(reason for found in obstacles for reason in found.reasons)
        message = f"{unavailable}: {listed}. preemption: {unavailable}: {_counted(verdicts)}."
    scheduled = {c["type"]: c for c in pod["status"].get("conditions", [])}.get("PodScheduled", {})
    if scheduled.get("message") == message:
        return

    def change(target: Object) -> None:
        set_condition(target, "PodScheduled", "False", "Unschedulable", message)

    metadata = pod["metadata"]
    refused = storage.update(PODS, metadata["namespace"], metadata["name"], change)
    record(storage, refused, "Warning", "FailedScheduling", message, "default-scheduler")


def _counted(reasons: Iterable[str]) -> str:
    return ", ".join(sorted(f"{number} {reason}" for reason, number in Counter(reasons).items()))
