"""The resources this server has, and what it knows of each."""

from dataclasses import dataclass

_EVENT_FIELDS = (
    "involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
    "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath",
    "reason", "reportingComponent", "source", "type",
)  # fmt: skip
_POD_FIELDS = (
    "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
    "status.phase", "status.podIP", "status.nominatedNodeName",
)  # fmt: skip


@dataclass(frozen=True)
class Resource:
    """One row of the API: `plural` in `group`/`version`, objects of `kind`."""

    plural: str
    kind: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    subresources: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    """What a field selector may name beside metadata.name and metadata.namespace."""

    @property
    def qualified(self) -> str:
        """`jobs.batch`, as messages have it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        """`batch/v1`, as manifests have it."""
        return f"{self.group}/{self.version}" if self.group else self.version


NAMESPACES = Resource("namespaces", "Namespace", namespaced=False)
NODES = Resource("nodes", "Node", namespaced=False, subresources=("status",), fields=("spec.unschedulable",))
PODS = Resource("pods", "Pod", subresources=("status", "log", "eviction"), fields=_POD_FIELDS)
SERVICES = Resource("services", "Service", fields=("spec.clusterIP", "spec.type"))
EVENTS = Resource("events", "Event", fields=_EVENT_FIELDS)
CONFIG_MAPS = Resource("configmaps", "ConfigMap")
SECRETS = Resource("secrets", "Secret", fields=("type",))
JOBS = Resource("jobs", "Job", "batch", subresources=("status",), fields=("status.successful",))

RESOURCES = (NAMESPACES, NODES, PODS, SERVICES, EVENTS, CONFIG_MAPS, SECRETS, JOBS)


def named(plural: str) -> Resource:
    """The resource of this plural name."""
    return next(resource for resource in RESOURCES if resource.plural == plural)
