"""A request and its response, without HTTP: routes, access control, verbs, watches."""

import copy
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.kubernetes_api import validation
from tests.kubernetes_api.admission import check_pod
from tests.kubernetes_api.errors import ApiError, bad_request, forbidden, no_such_path, not_found, not_implemented
from tests.kubernetes_api.objects import EVENTS, JOBS, NAMESPACES, PODS, RESOURCES, SERVICES, Object, Resource
from tests.kubernetes_api.storage import Change, Storage

USER = "system:serviceaccount:default:progdistill"
BOOKMARK_SECONDS = 60.0

_PATH = re.compile(
    r"^/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<sub>[^/]+))?)?$"
)
_KNOWN_QUERY = {
    "list": {"labelSelector", "fieldSelector"},
    "watch": {
        "labelSelector", "fieldSelector", "watch", "resourceVersion", "timeoutSeconds", "allowWatchBookmarks",
    },
    "log": {"container", "follow", "timestamps", "sinceTime"},
    "create": {"dryRun"},
}  # fmt: skip
_EVENT_FIELDS = ("involvedObject.uid", "involvedObject.name", "type")

Matches = Callable[[Object], bool]


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


def find_route(method: str, target: str) -> Route:
    """The route of a request; 404 or 501 if there is none."""
    url = urlsplit(target)
    query = {name: values[-1] for name, values in parse_qs(url.query).items()}
    found = _PATH.match(url.path)
    if found is None:
        raise no_such_path()
    group, version = found["group"] or "", found["version"] or "v1"
    row = (found["plural"], group, version)
    namespaced = found["namespace"] is not None
    known = (r for r in RESOURCES if (r.plural, r.group, r.version) == row)
    resource = next((r for r in known if r.namespaced == namespaced), None)
    if resource is None:
        if not group:
            raise not_implemented(f"{found['plural']} in API group ''")
        raise no_such_path()
    name, sub = found["name"] or "", found["sub"] or ""
    watching = query.get("watch", "").lower() in ("true", "1")
    reading = "get" if name else "watch" if watching else "list"
    writing = {"POST": "create", "PATCH": "patch" if name else "", "DELETE": "delete" if name else ""}
    verb = reading if method == "GET" else writing.get(method, "")
    if not verb or (sub and (resource is not PODS or sub != "log" or verb != "get")):
        raise not_implemented(f"{method} of {resource.plural}{'/' + sub if sub else ''}")
    if unknown := sorted(query.keys() - _KNOWN_QUERY.get(sub or verb, set())):
        raise not_implemented(f"the query parameter {unknown[0]} of {verb}")
    return Route(resource, verb, found["namespace"] or "", name, sub, query)


@dataclass
class Access:
    """What the one token may do: `rules` maps `jobs.batch` or `pods/log` to verbs; None allows everything."""

    rules: Mapping[str, Set[str]] | None = None

    def allows(self, verb: str, resource: str, group: str, subresource: str = "") -> bool:
        """Whether a request may proceed."""
        wanted = resource + (f".{group}" if group else "") + (f"/{subresource}" if subresource else "")
        return self.rules is None or verb in self.rules.get(wanted, set())

    def check(self, route: Route) -> None:
        """403 with the wording of the real authorizer."""
        resource, verb = route.resource, route.verb
        if not self.allows(verb, resource.plural, resource.group, route.subresource):
            what = resource.plural + (f"/{route.subresource}" if route.subresource else "")
            where = f'in API group "{resource.group}" in the namespace "{route.namespace}"'
            why = f'User "{USER}" cannot {verb} resource "{what}" {where}'
            raise forbidden(resource, route.name, why)


@dataclass(frozen=True)
class Answer:
    """A status and a body."""

    code: int
    body: Any


@dataclass
class Api:
    """The objects behind access control, defaulting and validation."""

    storage: Storage
    access: Access

    def answer(self, route: Route, body: Any, content_type: str) -> Answer:
        """Do what a request asks for."""
        match route.verb:
            case "get":
                return Answer(200, self.storage.get(route.resource, route.namespace, route.name))
            case "list":
                return self._list(route)
            case "create":
                return self._create(route, body)
            case "patch":
                return self._patch(route, body, content_type)
            case _:
                return self._delete(route, body if isinstance(body, dict) else {})

    def review(self, body: Any) -> Answer:
        """SelfSubjectAccessReview."""
        attributes = (body.get("spec") or {})["resourceAttributes"]
        names = ("verb", "resource", "group", "subresource")
        allowed = self.access.allows(*(attributes.get(name, "") for name in names))
        return Answer(201, {**body, "status": {"allowed": allowed}})

    def _list(self, route: Route) -> Answer:
        matches = selector(route)
        with self.storage.changed:
            items = [i for i in self.storage.list(route.resource, route.namespace) if matches(i)]
            version = str(self.storage.version)
        listed = {"kind": f"{route.resource.kind}List", "apiVersion": route.resource.api_version}
        return Answer(200, {**listed, "metadata": {"resourceVersion": version}, "items": items})

    def _create(self, route: Route, body: Any) -> Answer:
        resource = route.resource
        if not isinstance(body, dict):
            raise bad_request("the request body is no object")
        item = {"apiVersion": resource.api_version, "kind": resource.kind, **copy.deepcopy(body)}
        item["metadata"] = {**(item.get("metadata") or {}), "namespace": route.namespace}
        item["metadata"]["uid"] = str(uuid.uuid4())
        item.pop("status", None)
        validation.check(resource, item)
        if self.storage.find(NAMESPACES, "", route.namespace) is None:
            raise not_found(NAMESPACES, route.namespace)
        validation.fill_defaults(resource, item)
        if resource is PODS:
            check_pod(self.storage, item)
        dry_run = route.query.get("dryRun")
        if dry_run not in (None, "All"):
            raise bad_request(f'Invalid value: "{dry_run}": supported values: "All"')
        return Answer(201, self.storage.create(resource, item, dry_run=dry_run is not None))

    def _patch(self, route: Route, body: Any, content_type: str) -> Answer:
        if content_type != "application/merge-patch+json":
            raise not_implemented(f"patches of type {content_type}")
        if route.resource is not SERVICES or set(body) != {"metadata"}:
            raise not_implemented(f"patches of {route.resource.plural} beyond a Service's metadata")

        def change(item: Object) -> None:
            kept = {name: item["metadata"][name] for name in ("name", "namespace", "uid", "resourceVersion")}
            item["metadata"] = {**_merged(item["metadata"], body["metadata"]), **kept}
            validation.check(SERVICES, item)

        return Answer(200, self.storage.update(SERVICES, route.namespace, route.name, change))

    def _delete(self, route: Route, options: dict[str, Any]) -> Answer:
        policy = options.get("propagationPolicy")
        if policy is None and route.resource is JOBS:
            raise not_implemented("deletion of a Job without propagationPolicy, which would orphan its pods")
        if policy not in (None, "Background", "Foreground"):
            raise not_implemented(f"propagationPolicy {policy}")
        preconditions = options.get("preconditions") or {}
        if preconditions.keys() - {"uid"}:
            raise not_implemented("preconditions other than uid")
        item, gone = self.storage.delete(
            route.resource,
            route.namespace,
            route.name,
            policy=policy or "Background",
            grace_seconds=options.get("gracePeriodSeconds"),
            uid=preconditions.get("uid"),
        )
        if not gone or route.resource is PODS:
            return Answer(200, item)
        details = {"name": route.name, "kind": route.resource.plural, "uid": item["metadata"]["uid"]}
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return Answer(200, {**status, "details": details})


def _merged(value: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(value) if isinstance(value, dict) else {}
    for key, part in patch.items():
        merged[key] = _merged(merged.get(key), part)
    return {key: part for key, part in merged.items() if patch.get(key, part) is not None}


def selector(route: Route) -> Matches:
    """The request's label and field selectors, of which only equality is there."""
    labels = _equalities(route.query.get("labelSelector", ""))
    fields = _equalities(route.query.get("fieldSelector", ""))
    for name in fields:
        if route.resource is not EVENTS or name not in _EVENT_FIELDS:
            raise bad_request(f"field label not supported: {name}")

    def matches(item: Object) -> bool:
        own = item["metadata"].get("labels") or {}
        return all(own.get(key) == value for key, value in labels.items()) and all(
            _field(item, name) == value for name, value in fields.items()
        )

    return matches


def _equalities(text: str) -> dict[str, str]:
    found = {}
    for part in filter(None, text.split(",")):
        equality = re.fullmatch(r"([^=!\s]+)=([^=!\s]*)", part)
        if equality is None:
            raise not_implemented(f"the selector {part!r}")
        found[equality[1]] = equality[2]
    return found


def _field(item: Object, name: str) -> str:
    value: Any = item
    for part in name.split("."):
        value = value.get(part, {})
    return str(value)


def watch_events(storage: Storage, route: Route, stopping: threading.Event) -> Iterator[bytes]:
    """Lines of JSON, one per event; an empty piece now and then while nothing happens.

    Kubernetes documentation, "API Concepts": "Efficient detection of changes", "410 Gone responses".
    """
    matches, version = selector(route), int(route.query.get("resourceVersion") or 0)
    ends = time.monotonic() + float(route.query.get("timeoutSeconds", 1800))
    next_bookmark = time.monotonic() + BOOKMARK_SECONDS
    yield b""
    if version == 0:  # "get state and start at any": the existing objects come first
        with storage.changed:
            items, version = storage.list(route.resource, route.namespace), storage.version
        yield from (_event("ADDED", item) for item in items if matches(item))
    while not stopping.is_set():
        left = ends - time.monotonic()
        try:
            with storage.changed:
                changes = storage.changes(route.resource, version)
                version = max(version, storage.version)
                if not changes and left > 0:
                    storage.changed.wait(min(left, 0.5))
        except ApiError as gone:
            yield _event("ERROR", gone.status())
            return
        # Nothing is sent while the lock is held: a slow client must not stop the cluster.
        for change in changes:
            kind = _seen(change, matches)
            if kind is not None and change.item["metadata"].get("namespace") == route.namespace:
                yield _event(kind, change.item)
        if not changes:
            if route.flag("allowWatchBookmarks") and (left <= 0 or time.monotonic() >= next_bookmark):
                next_bookmark = time.monotonic() + BOOKMARK_SECONDS
                yield _bookmark(route.resource, version)
            if left <= 0:
                return
            yield b""


def _seen(change: Change, matches: Matches) -> str | None:
    """What a watcher with a selector sees: objects come and go as they begin and cease to match."""
    before = change.before is not None and matches(change.before)
    after = change.kind != "DELETED" and matches(change.item)
    if before:
        return "MODIFIED" if after else "DELETED"
    return "ADDED" if after else None


def _bookmark(resource: Resource, version: int) -> bytes:
    metadata = {"resourceVersion": str(version), "creationTimestamp": None}
    return _event("BOOKMARK", {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata})


def _event(kind: str, item: Object) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"
