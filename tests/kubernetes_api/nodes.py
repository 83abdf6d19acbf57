"""The machines of the cluster, as far as scheduling sees them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from tests.kubernetes_api import quantity


@dataclass(frozen=True)
class Node:
    """A node: `gpu` counts nvidia.com/gpu, `tpu` google.com/tpu; `taints` are (key, value, effect)."""

    name: str
    cpu: float = 8
    memory_gib: float = 32
    disk_gib: float = 1024
    gpu: int = 0
    tpu: int = 0
    pods: int = 110
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[tuple[str, str, str], ...] = ()
    extended: Mapping[str, int] = field(default_factory=dict)

    def capacity(self) -> dict[str, Fraction]:
        """What it has, by resource name."""
        own = {"cpu": f"{round(self.cpu * 1000)}m", "memory": f"{round(self.memory_gib * 1024)}Mi"}
        own |= {"ephemeral-storage": f"{round(self.disk_gib * 1024)}Mi"}
        devices = {"nvidia.com/gpu": self.gpu, "google.com/tpu": self.tpu, **self.extended}
        counted = {name: count for name, count in devices.items() if count}
        return {name: quantity.parse(value) for name, value in (own | counted | {"pods": self.pods}).items()}

    def manifest(self) -> dict[str, Any]:
        """The Node object."""
        amounts = {
            "cpu": f"{round(self.cpu * 1000)}m",
            "memory": f"{round(self.memory_gib * 1024)}Mi",
            "ephemeral-storage": f"{round(self.disk_gib * 1024)}Mi",
            "pods": str(self.pods),
        }
        amounts |= {n: str(int(v)) for n, v in self.capacity().items() if "/" in n}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": {"kubernetes.io/hostname": self.name, **self.labels}},
            "spec": {"taints": [{"key": k, "value": v, "effect": e} for k, v, e in self.taints]},
            "status": {
                "capacity": amounts,
                "allocatable": amounts,
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            },
        }


def requested(pod: Mapping[str, Any]) -> dict[str, Fraction]:
    """What a pod asks for; a limit without a request is its request."""
    total: dict[str, Fraction] = {"pods": Fraction(1)}
    for container in pod["spec"]["containers"]:
        resources = container.get("resources") or {}
        for name, value in {**(resources.get("limits") or {}), **(resources.get("requests") or {})}.items():
            total[name] = total.get(name, Fraction(0)) + quantity.parse(value)
    return total
