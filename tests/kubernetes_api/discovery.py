"""Answers about the server itself: version, groups and their resources, health."""

from typing import Any

from tests.kubernetes_api.resources import RESOURCES, Resource

VERSION = {
    "major": "1", "minor": "33", "gitVersion": "v1.33.4", "gitCommit": "tests", "gitTreeState": "clean",
    "buildDate": "2025-08-13T00:00:00Z", "goVersion": "go1.24.5", "compiler": "gc", "platform": "linux/amd64",
}  # fmt: skip
_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_REVIEWS = Resource(
    "selfsubjectaccessreviews", "SelfSubjectAccessReview", "authorization.k8s.io", namespaced=False
)


def answer(path: str) -> Any | None:
    """The answer for one of these paths, or None."""
    if path == "/version":
        return VERSION
    if path in ("/healthz", "/livez", "/readyz"):
        return "ok"
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    groups = {resource.group: resource.version for resource in (*RESOURCES, _REVIEWS) if resource.group}
    if path == "/apis":
        return {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [_group(n, v) for n, v in groups.items()],
        }
    for name, version in groups.items():
        if path == f"/apis/{name}":
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, version)}
        if path == f"/apis/{name}/{version}":
            return _resources(name, version)
    return _resources("", "v1") if path == "/api/v1" else None


def _group(name: str, version: str) -> dict[str, Any]:
    entry = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [entry], "preferredVersion": entry}


def _resources(group: str, version: str) -> dict[str, Any]:
    listed = []
    for resource in (*RESOURCES, _REVIEWS):
        if resource.group == group:
            verbs = ["create"] if resource is _REVIEWS else _VERBS
            row = {"name": resource.plural, "singularName": resource.kind.lower(), "kind": resource.kind}
            listed.append(row | {"namespaced": resource.namespaced, "verbs": verbs})
            for sub in resource.subresources:
                listed.append(
                    {**listed[-1], "name": f"{resource.plural}/{sub}", "verbs": ["get", "patch", "update"]}
                )
    group_version = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": listed}
