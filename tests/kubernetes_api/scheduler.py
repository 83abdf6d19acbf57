"""Nodes, and the scheduler that assigns pods or reports why none fits (kube-scheduler, no preemption)."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from tests.kubernetes_api.objects import CLAIMS, NODES, PODS, Object, condition, is_finished, key_of, set_condition
from tests.kubernetes_api.storage import Storage, record_event

_SUFFIX = {
    "": Fraction(1), "m": Fraction(1, 1000), "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9),
    "Ki": Fraction(2**10), "Mi": Fraction(2**20), "Gi": Fraction(2**30), "Ti": Fraction(2**40),
}  # fmt: skip
_QUANTITY = re.compile(r"^([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(m|k|M|G|Ki|Mi|Gi|Ti)?$")


def parse_quantity(text: str | int | float) -> Fraction:
    """A resource quantity (`500m`, `16Gi`) in its base unit; ValueError if it is not one."""
    found = _QUANTITY.match(str(text))
    if found is None:
        raise ValueError(f"not a quantity: {text!r}")
    return Fraction(found[1]) * _SUFFIX[found[2] or ""]


@dataclass(frozen=True)
class Node:
    """A node; `gpu` counts nvidia.com/gpu."""

    name: str
    cpu: float = 8
    memory_gib: float = 32
    gpu: int = 0

    def manifest(self) -> Object:
        """The Node object."""
        amounts = {"cpu": f"{round(self.cpu * 1000)}m", "memory": f"{round(self.memory_gib * 1024)}Mi"}
        amounts |= {"ephemeral-storage": "1Ti", "pods": "110"}
        amounts |= {"nvidia.com/gpu": str(self.gpu)} if self.gpu else {}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name},
            "status": {"allocatable": amounts, "conditions": [{"type": "Ready", "status": "True"}]},
        }


def requested(pod: Mapping[str, Any]) -> dict[str, Fraction]:
    """What a pod requests."""
    resources = pod["spec"]["containers"][0].get("resources") or {}
    amounts = {name: parse_quantity(value) for name, value in (resources.get("requests") or {}).items()}
    return {"pods": Fraction(1), **amounts}


class _Obstacles(NamedTuple):
    reasons: list[str]
    lasting: bool
    """Whether it would not help if other pods went."""


def schedule(storage: Storage) -> None:
    """Bind every pending pod that fits; mark the others Unschedulable."""
    for pod in storage.list(PODS):
        if pod["spec"].get("nodeName") or "deletionTimestamp" in pod["metadata"] or is_finished(pod):
            continue
        if (claim := _missing_claim(storage, pod)) is not None:
            _refuse(storage, pod, f'persistentvolumeclaim "{claim}" not found')
            continue
        pods = storage.list(PODS)
        obstacles = {node["metadata"]["name"]: _obstacles(pod, node, pods) for node in storage.list(NODES)}
        fitting = [name for name, found in obstacles.items() if not found.reasons]
        if fitting:
            _bind(storage, pod, fitting[0])
        else:
            _refuse(storage, pod, _unschedulable(list(obstacles.values())))


def _obstacles(pod: Object, node: Object, pods: list[Object]) -> _Obstacles:
    whole = {name: parse_quantity(value) for name, value in node["status"]["allocatable"].items()}
    free = Counter(whole)
    for other in pods:
        if other["spec"].get("nodeName") == node["metadata"]["name"] and not is_finished(other):
            free.subtract(requested(other))
    wanted = requested(pod)
    short = sorted(name for name, amount in wanted.items() if amount > free[name])
    reasons = ["Too many pods" if name == "pods" else f"Insufficient {name}" for name in short]
    return _Obstacles(reasons, any(wanted[name] > whole.get(name, 0) for name in short))


def _bind(storage: Storage, pod: Object, node: str) -> None:
    def change(target: Object) -> None:
        target["spec"]["nodeName"] = node
        set_condition(target, "PodScheduled", "True")

    storage.update(PODS, *key_of(pod), change)


def _missing_claim(storage: Storage, pod: Object) -> str | None:
    volumes = [volume.get("persistentVolumeClaim") for volume in pod["spec"].get("volumes") or []]
    names = [claim["claimName"] for claim in volumes if claim]
    return next((n for n in names if storage.find(CLAIMS, pod["metadata"]["namespace"], n) is None), None)


def _unschedulable(obstacles: list[_Obstacles]) -> str:
    if not obstacles:
        return "no nodes available to schedule pods"
    verdicts = {True: "Preemption is not helpful for scheduling", False: "No preemption victims found for incoming pod"}
    unavailable = f"0/{len(obstacles)} nodes are available"
    listed = _counted(reason for found in obstacles for reason in found.reasons)
    preemption = _counted(verdicts[found.lasting] for found in obstacles)
    return f"{unavailable}: {listed}. preemption: {unavailable}: {preemption}."


def _refuse(storage: Storage, pod: Object, message: str) -> None:
    if condition(pod, "PodScheduled").get("message") == message:
        return

    def change(target: Object) -> None:
        set_condition(target, "PodScheduled", "False", "Unschedulable", message)

    refused = storage.update(PODS, *key_of(pod), change)
    record_event(storage, refused, "Warning", "FailedScheduling", message, "default-scheduler")


def _counted(reasons: Iterable[str]) -> str:
    return ", ".join(sorted(f"{number} {reason}" for reason, number in Counter(reasons).items()))
