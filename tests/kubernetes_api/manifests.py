"""Small manifests for tests."""

from typing import Any


def job(
    name: str, command: str, *, indexed: int | None = None, pod: Any = None, **spec: Any
) -> dict[str, Any]:
    """A job that runs a shell command, `indexed` times over as an Indexed job."""
    container = {"name": "main", "image": "trainer:1", "command": ["sh", "-c", command]}
    container |= (pod or {}).pop("container", {})
    template = {"spec": {"restartPolicy": "Never", "containers": [container], **(pod or {})}}
    if indexed is not None:
        spec = {"completionMode": "Indexed", "completions": indexed, "parallelism": indexed, **spec}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"template": template, **spec},
    }


def pod(name: str, command: str, **spec: Any) -> dict[str, Any]:
    """A pod that runs a shell command."""
    container = {"name": "main", "image": "trainer:1", "command": ["sh", "-c", command]}
    container |= spec.pop("container", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 60,
            "containers": [container],
            **spec,
        },
    }


def config_map(name: str, labels: dict[str, str] | None = None, owner: Any = None) -> dict[str, Any]:
    """A config map, owned by an object if one is given."""
    metadata: dict[str, Any] = {"name": name, "labels": labels or {}}
    if owner is not None:
        metadata["ownerReferences"] = [
            {"apiVersion": "batch/v1", "kind": "Job", "name": owner.metadata.name, "uid": owner.metadata.uid}
        ]
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"key": "value"}}
