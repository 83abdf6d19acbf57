"""The pods of a job: how they are made from its template, and which of them count as what."""

import copy
import secrets
from collections.abc import Iterable
from typing import Any

from tests.kubernetes_api import ownership
from tests.kubernetes_api.conditions import has_condition
from tests.kubernetes_api.resources import PODS
from tests.kubernetes_api.storage import Object, Storage

TRACKING = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


def pods_of(storage: Storage, job: Object) -> list[Object]:
    """The pods that this job controls."""
    return [p for p in storage.list(PODS) if ownership.controller_of(p) == job["metadata"]["uid"]]


def new_pod(job: Object, index: int | None) -> Object:
    """A pod of the job's template, with the names, labels and environment of its index."""
    template = copy.deepcopy(job["spec"]["template"])
    name = job["metadata"]["name"]
    metadata: dict[str, Any] = {
        "labels": dict((template.get("metadata") or {}).get("labels") or {}),
        "annotations": dict((template.get("metadata") or {}).get("annotations") or {}),
        "namespace": job["metadata"]["namespace"],
        "ownerReferences": [ownership.reference(job)],
        "finalizers": [TRACKING],
    }
    spec = template["spec"]
    suffix = "".join(secrets.choice(_LETTERS) for _ in range(5))
    if index is None:
        metadata["name"] = f"{name}-{suffix}"
    else:
        metadata["name"] = f"{name}-{index}-{suffix}"
        metadata["labels"][INDEX] = metadata["annotations"][INDEX] = str(index)
        spec.setdefault("hostname", f"{name}-{index}")
        source = {"fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.labels['{INDEX}']"}}
        for container in spec["containers"]:
            env = container.setdefault("env", [])
            if all(variable["name"] != "JOB_COMPLETION_INDEX" for variable in env):
                env.append({"name": "JOB_COMPLETION_INDEX", "valueFrom": source})
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    return pod | {"status": {"phase": "Pending", "qosClass": "Burstable"}}


def index_of(pod: Object) -> int | None:
    """The completion index a pod carries."""
    found = (pod["metadata"].get("annotations") or {}).get(INDEX)
    return None if found is None else int(found)


def is_failed(job: Object, pod: Object) -> bool:
    """Whether it counts as failed: when terminal, or already when it is being deleted."""
    phase = pod["status"].get("phase")
    if phase == "Failed":
        return True
    if job["spec"].get("podReplacementPolicy") == "Failed" or job["spec"].get("podFailurePolicy"):
        return False
    return phase != "Succeeded" and "deletionTimestamp" in pod["metadata"]


def is_active(pod: Object) -> bool:
    """Neither finished nor being deleted."""
    return (
        pod["status"].get("phase") not in ("Succeeded", "Failed")
        and "deletionTimestamp" not in pod["metadata"]
    )


def is_terminating(pod: Object) -> bool:
    """Being deleted, not finished."""
    finished = pod["status"].get("phase") in ("Succeeded", "Failed")
    return not finished and "deletionTimestamp" in pod["metadata"]


def is_ready(pod: Object) -> bool:
    """Its Ready condition."""
    return has_condition(pod, "Ready")


def written(indexes: Iterable[int]) -> str:
    """`0,2-4`: how a status lists indexes."""
    parts: list[list[int]] = []
    for index in sorted(indexes):
        if parts and parts[-1][-1] == index - 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    return ",".join(
        str(p[0]) if len(p) == 1 else f"{p[0]},{p[1]}" if len(p) == 2 else f"{p[0]}-{p[-1]}" for p in parts
    )


def read(text: str) -> set[int]:
    """The inverse of `written`."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found
