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
    gpu: int = 0
    tpu: int = 0
    pods: int = 110
    ephemeral_storage_gib: float = 1024
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[tuple[str, str, str], ...] = ()
    extended: Mapping[str, int] = field(default_factory=dict)

    def capacity(self) -> dict[str, Fraction]:
        """What it has, by resource name."""
        return {name: quantity.parse(value) for name, value in self._amounts().items()}

    def _amounts(self) -> dict[str, str]:
        own = {
            "cpu": f"{round(self.cpu * 1000)}m",
            "memory": f"{round(self.memory_gib * 1024)}Mi",
            "ephemeral-storage": f"{round(self.ephemeral_storage_gib * 1024)}Mi",
            "pods": str(self.pods),
        }
        devices = {"nvidia.com/gpu": self.gpu, "google.com/tpu": self.tpu, **self.extended}
        return own | {name: str(count) for name, count in devices.items() if count}

    def manifest(self) -> dict[str, Any]:
        """The Node object."""
        amounts = self._amounts()
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
