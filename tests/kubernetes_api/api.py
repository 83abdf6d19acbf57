"""The verbs on objects, without HTTP: what the registry of the API server does for one request."""

import copy
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.kubernetes_api import defaults, patches, validation
from tests.kubernetes_api.access import Access
from tests.kubernetes_api.errors import ApiError, bad_request, conflict, invalid, not_found, omissions
from tests.kubernetes_api.resources import JOBS, NAMESPACES, NODES, PODS, Resource
from tests.kubernetes_api.routes import Route
from tests.kubernetes_api.selectors import Matches, field_selector, label_selector
from tests.kubernetes_api.storage import Object, Storage

_ORPHANS_WARNING = (
    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove"
    " them or set propagationPolicy=Orphan to suppress this warning"
)


@dataclass(frozen=True)
class Answer:
    """A status and a body; `warnings` become Warning headers."""

    code: int
    body: Any
    warnings: list[str] = field(default_factory=list)


@dataclass
class Api:
    """The objects behind access control, defaulting and validation."""

    storage: Storage
    access: Access
    evict: Callable[[Object, str], None]

    def answer(self, route: Route, body: Any, content_type: str) -> Answer:
        """Do what a request asks for."""
        verbs = {
            "get": self._get,
            "list": self._list,
            "create": self._create,
            "update": self._update,
            "patch": self._update,
            "delete": self._delete,
            "deletecollection": self._delete_collection,
        }
        return verbs[route.verb](route, body, content_type)

    def review(self, body: Any) -> Answer:
        """SelfSubjectAccessReview."""
        asked = (body.get("spec") or {}).get("resourceAttributes")
        if asked is None:
            raise omissions("SelfSubjectAccessReview without resourceAttributes")
        allowed = self.access.allows(
            asked.get("verb", ""),
            asked.get("resource", ""),
            asked.get("group", ""),
            asked.get("subresource", ""),
        )
        status = {"allowed": allowed} | ({} if allowed else {"reason": ""})
        return Answer(201, {**body, "status": status})

    def selected(self, route: Route) -> Matches:
        """The test of the request's label and field selectors."""
        labels = label_selector(route.query.get("labelSelector", ""))
        fields = field_selector(route.resource, route.query.get("fieldSelector", ""))
        return lambda item: labels(item) and fields(item)

    def _get(self, route: Route, body: Any, content_type: str) -> Answer:
        return Answer(200, self.storage.get(route.resource, route.namespace, route.name))

    def _list(self, route: Route, body: Any, content_type: str) -> Answer:
        if "continue" in route.query:
            raise omissions("continue tokens: a list is always whole")
        matches = self.selected(route)
        with self.storage.changed:
            asked = int(route.query.get("resourceVersion") or 0)
            if asked > self.storage.version:
                message = f"Too large resource version: {asked}, current: {self.storage.version}"
                raise ApiError(
                    504,
                    "Timeout",
                    message,
                    {
                        "causes": [
                            {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
                        ],
                        "retryAfterSeconds": 1,
                    },
                )
            if route.query.get("resourceVersionMatch") == "Exact":
                raise omissions("resourceVersionMatch=Exact")
            items = [i for i in self.storage.list(route.resource, route.namespace or None) if matches(i)]
            version = str(self.storage.version)
        limit = route.number("limit")
        if limit and len(items) > limit:
            raise omissions("lists in parts: leave out limit")
        resource = route.resource
        listed = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version}
        return Answer(200, {**listed, "metadata": {"resourceVersion": version}, "items": items})

    def _create(self, route: Route, body: Any, content_type: str) -> Answer:
        resource = route.resource
        if route.subresource == "eviction":
            pod = self.storage.get(PODS, route.namespace, route.name)
            self.evict(pod, "EvictionByEvictionAPI")
            return Answer(
                201, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
            )
        item = self._read(resource, body, route.namespace)
        metadata = item["metadata"]
        if "name" not in metadata and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + secrets.token_hex(3)[:5]
        metadata["uid"] = str(uuid.uuid4())
        for name in (
            "resourceVersion",
            "creationTimestamp",
            "deletionTimestamp",
            "generation",
            "managedFields",
        ):
            if name == "resourceVersion" and metadata.get(name):
                raise bad_request("resourceVersion should not be set on objects to be created")
            metadata.pop(name, None)
        item.pop("status", None)
        if resource is JOBS:
            defaults.fill_before_validation(item)
        validation.check(resource, item)
        if resource.namespaced and self.storage.find(NAMESPACES, "", route.namespace) is None:
            raise not_found(NAMESPACES, route.namespace)
        defaults.fill(resource, item)
        if self._dry(route):
            if self.storage.find(resource, route.namespace, metadata["name"]):
                return Answer(201, self.storage.create(resource, item))  # which refuses it
            return Answer(201, item)
        return Answer(201, self.storage.create(resource, item))

    @staticmethod
    def _dry(route: Route) -> bool:
        return route.query.get("dryRun") == "All"

    @staticmethod
    def _read(resource: Resource, body: Any, namespace: str) -> Object:
        if not isinstance(body, dict):
            raise bad_request("the request body is no object")
        item = copy.deepcopy(body)
        kind = (item.get("apiVersion", resource.api_version), item.get("kind", resource.kind))
        if kind != (resource.api_version, resource.kind):
            raise bad_request(
                f"the API version in the data ({kind[0]}, Kind={kind[1]}) does not match the expected API"
                f" version ({resource.api_version}, Kind={resource.kind})"
            )
        item = {"apiVersion": resource.api_version, "kind": resource.kind, **item}
        metadata = item.setdefault("metadata", {})
        if resource.namespaced:
            if metadata.get("namespace", namespace) != namespace:
                raise bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
            metadata["namespace"] = namespace
        return item

    def _update(self, route: Route, body: Any, content_type: str) -> Answer:
        resource = route.resource

        def change(item: Object) -> None:
            before = copy.deepcopy(item)
            if route.verb == "patch":
                new = patches.apply(item, body, content_type)
            else:
                new = self._read(resource, body, route.namespace)
            sent = (new.get("metadata") or {}).get("resourceVersion")
            if sent not in (None, "", before["metadata"]["resourceVersion"]):
                raise conflict(resource, route.name)
            if route.subresource == "status":
                item["status"] = new.get("status") or {}
                return
            self._keep_system_fields(resource, before, new)
            validation.check(resource, {key: value for key, value in new.items() if key != "status"})
            _check_immutable(resource, before, new)
            item.clear()
            item.update(new)

        if self._dry(route):
            item = self.storage.get(resource, route.namespace, route.name)
            change(item)
            return Answer(200, item)
        return Answer(200, self.storage.update(resource, route.namespace, route.name, change))

    @staticmethod
    def _keep_system_fields(resource: Resource, before: Object, new: Object) -> None:
        kept = ("name", "uid", "resourceVersion", "creationTimestamp", "generation", "deletionTimestamp",
                "deletionGracePeriodSeconds", "namespace")  # fmt: skip
        for name in kept:
            if name in before["metadata"]:
                new["metadata"][name] = before["metadata"][name]
            else:
                new["metadata"].pop(name, None)
        if "status" in resource.subresources:
            new.pop("status", None)
            if "status" in before:
                new["status"] = before["status"]

    def _delete(self, route: Route, body: Any, content_type: str) -> Answer:
        options = body if isinstance(body, dict) else {}
        policy, warnings = self._policy(route, options)
        grace = options.get("gracePeriodSeconds", route.number("gracePeriodSeconds"))
        preconditions = options.get("preconditions") or {}
        wanted = preconditions.get("resourceVersion")
        with self.storage.changed:
            current = self.storage.get(route.resource, route.namespace, route.name)
            version = current["metadata"]["resourceVersion"]
            if wanted not in (None, version):
                why = f"ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {version}"
                why = f"Precondition failed: {why}"
                raise conflict(route.resource, route.name, why)
            if self._dry(route) or options.get("dryRun"):
                item, gone = current, True
            else:
                item, gone = self.storage.delete(
                    route.resource, route.namespace, route.name,
                    policy=policy, grace_seconds=grace, uid=preconditions.get("uid"),
                )  # fmt: skip
        if not gone or route.resource is PODS:
            return Answer(200, item, warnings)
        details = {"name": route.name, "group": route.resource.group, "kind": route.resource.plural}
        details = {key: value for key, value in details.items() if value} | {"uid": item["metadata"]["uid"]}
        body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        return Answer(200, body, warnings)

    @staticmethod
    def _policy(route: Route, options: dict[str, Any]) -> tuple[str, list[str]]:
        policy = options.get("propagationPolicy") or route.query.get("propagationPolicy")
        if options.get("orphanDependents") is not None or "orphanDependents" in route.query:
            raise omissions("orphanDependents, which propagationPolicy has replaced")
        if policy not in (None, "Background", "Foreground", "Orphan"):
            causes = [
                validation.wrong(
                    "propagationPolicy", policy, 'supported values: "Background", "Foreground", "Orphan"'
                )
            ]
            raise invalid(Resource("", "DeleteOptions", "meta.k8s.io"), "", causes)
        if policy is None and route.resource is JOBS:
            # jobStrategy.DefaultGarbageCollectionPolicy: batch/v1 orphans, for backward compatibility.
            return "Orphan", [_ORPHANS_WARNING]
        return policy or "Background", []

    def _delete_collection(self, route: Route, body: Any, content_type: str) -> Answer:
        listed = self._list(route, None, "").body
        for item in listed["items"]:
            single = Route(
                route.resource,
                "delete",
                item["metadata"].get("namespace", ""),
                item["metadata"]["name"],
                "",
                route.query,
            )
            try:
                self._delete(single, body, content_type)
            except ApiError as problem:
                if problem.code != 404:
                    raise
        return Answer(200, listed)


def _check_immutable(resource: Resource, before: Object, new: Object) -> None:
    old_spec, new_spec = before.get("spec", {}), new.get("spec", {})
    fields: tuple[str, ...] = ()
    if resource is JOBS:
        fields = ("selector", "template", "completionMode", "podFailurePolicy", "completions")
        if old_spec.get("suspend") and "startTime" not in before["status"]:
            # "Mutable Scheduling Directives": how a queue places a job that it then resumes.
            old_spec, new_spec = _without_placement(old_spec), _without_placement(new_spec)
    elif resource is PODS and old_spec != new_spec:
        message = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,..."
        raise invalid(resource, new["metadata"]["name"], [("FieldValueForbidden", message, "spec")])
    elif resource is NODES:
        raise omissions("changes of nodes through the API")
    causes = [
        validation.forbidden_change(f"spec.{name}", new_spec.get(name))
        for name in fields
        if old_spec.get(name) != new_spec.get(name)
    ]
    if causes:
        raise invalid(resource, new["metadata"]["name"], causes)


def _without_placement(spec: dict[str, Any]) -> dict[str, Any]:
    spec = copy.deepcopy(spec)
    for name in ("nodeSelector", "tolerations", "schedulingGates"):
        spec["template"]["spec"].pop(name, None)
    spec["template"].pop("metadata", None)
    return spec
