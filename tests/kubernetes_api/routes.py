"""What a path and a method ask for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from tests.kubernetes_api.errors import ApiError, no_such_path, omissions
from tests.kubernetes_api.resources import RESOURCES, Resource

_PATH = re.compile(
    r"^/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<sub>[^/]+))?)?$"
)
_ELSEWHERE = ("persistentvolumeclaims", "serviceaccounts", "endpoints", "replicationcontrollers",
              "limitranges", "resourcequotas", "persistentvolumes", "podtemplates", "bindings")  # fmt: skip
_ELSEWHERE_GROUPS = ("apps", "autoscaling", "networking.k8s.io", "rbac.authorization.k8s.io", "policy",
                     "storage.k8s.io", "coordination.k8s.io", "discovery.k8s.io", "events.k8s.io",
                     "scheduling.k8s.io", "admissionregistration.k8s.io", "apiextensions.k8s.io")  # fmt: skip


@dataclass(frozen=True)
class Route:
    """A request for a resource: `verb` is what RBAC calls it."""

    resource: Resource
    verb: str
    namespace: str
    name: str
    subresource: str
    query: Mapping[str, str] = field(default_factory=dict)

    def flag(self, name: str) -> bool:
        """A boolean in the query."""
        return self.query.get(name, "").lower() in ("true", "1")

    def number(self, name: str) -> int | None:
        """A whole number in the query."""
        return int(self.query[name]) if self.query.get(name) else None


def query_of(target: str) -> dict[str, str]:
    """The query, the last value of each name."""
    return {name: values[-1] for name, values in parse_qs(urlsplit(target).query).items()}


def find(method: str, target: str) -> Route:
    """The route of a request; 404, 405 or 501 if there is none."""
    query = query_of(target)
    path = urlsplit(target).path
    namespaced_object = re.match(r"^/api/v1/namespaces/([^/]+)$", path)
    found = _PATH.match(path)
    if namespaced_object:
        plural, name, namespace, sub, group, version = "namespaces", namespaced_object[1], "", "", "", "v1"
    elif found:
        plural, namespace = found["plural"], found["namespace"] or ""
        name, sub = found["name"] or "", found["sub"] or ""
        group, version = found["group"] or "", found["version"] or "v1"
    else:
        raise no_such_path()
    resource = _resource(plural, group, version, namespace)
    if sub and sub not in resource.subresources:
        if resource.plural == "pods" and sub in ("exec", "attach", "portforward", "binding", "proxy"):
            raise omissions(f"pods/{sub}")
        raise no_such_path()
    return Route(resource, _verb(method, name, sub, query), unquote(namespace), unquote(name), sub, query)


def _resource(plural: str, group: str, version: str, namespace: str) -> Resource:
    for resource in RESOURCES:
        if (resource.plural, resource.group, resource.version) == (plural, group, version):
            if namespace and not resource.namespaced:
                break
            return resource
    if group in _ELSEWHERE_GROUPS or (not group and plural in _ELSEWHERE):
        raise omissions(f"{plural} in API group {group!r}")
    raise no_such_path()


def _verb(method: str, name: str, sub: str, query: Mapping[str, str]) -> str:
    watching = query.get("watch", "").lower() in ("true", "1")
    verbs = {
        "GET": "get" if name else "watch" if watching else "list",
        "POST": "create" if not name or sub == "eviction" else "",
        "PUT": "update" if name else "",
        "PATCH": "patch" if name else "",
        "DELETE": "delete" if name else "deletecollection",
    }
    verb = verbs.get(method, "")
    if not verb or (sub == "log" and verb != "get") or (sub == "eviction" and verb != "create"):
        raise ApiError(
            405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
        )
    return verb
