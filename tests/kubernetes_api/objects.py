"""Common parts of all API objects: resources, timestamps, conditions, owners, events."""

import datetime
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True)
class Resource:
    """One row of the API: `plural` in `group`/`version`, objects of `kind`."""

    plural: str
    kind: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True

    @property
    def qualified(self) -> str:
        """`jobs.batch`, as messages have it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        """`batch/v1`, as manifests have it."""
        return f"{self.group}/{self.version}" if self.group else self.version


NAMESPACES = Resource("namespaces", "Namespace", namespaced=False)
NODES = Resource("nodes", "Node", namespaced=False)
PODS = Resource("pods", "Pod")
SERVICES = Resource("services", "Service")
EVENTS = Resource("events", "Event")
SECRETS = Resource("secrets", "Secret")
JOBS = Resource("jobs", "Job", "batch")
SERVICE_ACCOUNTS = Resource("serviceaccounts", "ServiceAccount")
CLAIMS = Resource("persistentvolumeclaims", "PersistentVolumeClaim")
PRIORITY_CLASSES = Resource("priorityclasses", "PriorityClass", "scheduling.k8s.io", namespaced=False)
QUEUES = Resource("localqueues", "LocalQueue", "kueue.x-k8s.io", "v1beta2")
WORKFLOWS = Resource("workflows", "Workflow", "argoproj.io", "v1alpha1")
WORKFLOW_TEMPLATES = Resource("workflowtemplates", "WorkflowTemplate", "argoproj.io", "v1alpha1")
WORKLOADS = Resource("workloads", "Workload", "kueue.x-k8s.io", "v1beta2")

RESOURCES = (
    *(NAMESPACES, NODES, PODS, SERVICES, EVENTS, SECRETS, JOBS),
    *(SERVICE_ACCOUNTS, CLAIMS, PRIORITY_CLASSES, QUEUES, WORKLOADS, WORKFLOWS, WORKFLOW_TEMPLATES),
)


def named(plural: str) -> Resource:
    """The resource of this plural name."""
    return next(resource for resource in RESOURCES if resource.plural == plural)


def now() -> datetime.datetime:
    """The present time."""
    return datetime.datetime.now(datetime.UTC)


def timestamp(moment: datetime.datetime | None = None) -> str:
    """metav1.Time: RFC 3339 in whole seconds."""
    return (moment or now()).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime.datetime:
    """A time in an object or a query."""
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def condition(item: Object, kind: str) -> Object:
    """A condition, or {}."""
    found = [c for c in item.get("status", {}).get("conditions", []) if c["type"] == kind]
    return found[0] if found else {}


def has_condition(item: Object, kind: str) -> bool:
    """Whether a condition is True."""
    return bool(condition(item, kind).get("status") == "True")


def set_condition(item: Object, kind: str, status: str, reason: str = "", message: str = "") -> None:
    """Set a condition; its transition time moves only when its status does."""
    conditions = item["status"].setdefault("conditions", [])
    new = {"type": kind, "status": status, "lastProbeTime": timestamp(), "lastTransitionTime": timestamp()}
    new |= {key: value for key, value in (("reason", reason), ("message", message)) if value}
    old = condition(item, kind)
    if old:
        if old["status"] == status:
            new["lastTransitionTime"] = old["lastTransitionTime"]
        new["lastProbeTime"] = old["lastProbeTime"]
        conditions[conditions.index(old)] = new
    else:
        conditions.append(new)


def owner_reference(owner: Object) -> Object:
    """The ownerReference of a controller."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def controller_of(item: Object) -> str | None:
    """The uid of the controlling owner."""
    owners = item["metadata"].get("ownerReferences") or []
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def is_finished(pod: Object) -> bool:
    """Whether the pod has Succeeded or Failed."""
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def key_of(item: Object) -> tuple[str, str]:
    """Namespace and name."""
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]
