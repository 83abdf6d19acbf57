"""All objects and their history: the roles of etcd, the registry layer and the garbage collector.

One lock guards everything; `changed` is notified of every write. Objects handed out are copies. A
resourceVersion is a global count of writes, and a watch replays the history from one of them.
"""

import contextlib
import copy
import datetime
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from tests.kubernetes_api import errors
from tests.kubernetes_api.errors import ApiError
from tests.kubernetes_api.objects import EVENTS, PODS, RESOURCES, Object, Resource, is_finished, key_of, now, timestamp


@dataclass(frozen=True)
class Change:
    """One write: `kind` is ADDED, MODIFIED or DELETED."""

    version: int
    resource: str
    kind: str
    item: Object
    before: Object | None


class Storage:
    """The objects of one cluster."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self._items: dict[tuple[str, str, str], Object] = {}
        self._history: list[Change] = []
        self.version = 1
        self.oldest = 0
        """The history reaches back to (not including) this version."""
        self.refused_pods: str | None = None
        """Why an admission plugin, such as a quota, refuses new pods."""
        self.problems: list[Exception] = []
        """Failures of this server itself, which a test must not miss."""

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """The object; 404 if there is none."""
        found = self.find(resource, namespace, name)
        if found is None:
            raise errors.not_found(resource, name)
        return found

    def find(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """The object, or None."""
        with self.changed:
            return copy.deepcopy(self._items.get((resource.plural, namespace, name)))

    def list(self, resource: Resource, namespace: str | None = None) -> list[Object]:
        """All objects, ordered by namespace and name."""
        with self.changed:
            keys = sorted(k for k in self._items if k[0] == resource.plural and namespace in (None, k[1]))
            return [copy.deepcopy(self._items[key]) for key in keys]

    def create(self, resource: Resource, item: Object, *, dry_run: bool = False) -> Object:
        """Store a new object with uid, version and creation time; 409 if the name is taken. A dry run keeps none."""
        with self.changed:
            item = copy.deepcopy(item)
            namespace, name = key_of(item)
            if found := self._items.get((resource.plural, namespace, name)):
                raise errors.already_exists(resource, name, "deletionTimestamp" in found["metadata"])
            item["metadata"].setdefault("uid", str(uuid.uuid4()))
            item["metadata"]["creationTimestamp"] = timestamp()
            if not dry_run:
                self._write(resource, "ADDED", item, None)
            return copy.deepcopy(item)

    def update(self, resource: Resource, namespace: str, name: str, change: Callable[[Object], None]) -> Object:
        """Read, change and write in one go; nothing is written when nothing changes."""
        with self.changed:
            before = self.get(resource, namespace, name)
            after = copy.deepcopy(before)
            change(after)
            return self._replace(resource, before, after)

    def _replace(self, resource: Resource, before: Object, after: Object) -> Object:
        if after == before:
            return after
        self._write(resource, "MODIFIED", after, before)
        metadata = after["metadata"]
        waits = metadata.get("finalizers") or metadata.get("deletionGracePeriodSeconds")
        if metadata.get("deletionTimestamp") and not waits:
            self._write(resource, "DELETED", copy.deepcopy(after), after)
        return copy.deepcopy(after)

    def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        policy: str = "Background",
        grace_seconds: int | None = None,
        uid: str | None = None,
    ) -> tuple[Object, bool]:
        """Delete, or begin to: the object as it then is, and whether it is gone.

        An object with finalizers, and a pod that a node still runs, get a deletionTimestamp and wait.
        """
        with self.changed:
            item = self.get(resource, namespace, name)
            if uid is not None and uid != item["metadata"]["uid"]:
                found = item["metadata"]["uid"]
                why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {found}"
                raise errors.conflict(resource, name, why)
            after = copy.deepcopy(item)
            metadata = after["metadata"]
            finalizers = metadata.get("finalizers", [])
            if policy == "Foreground" and resource is not PODS:
                finalizers = list(dict.fromkeys([*finalizers, "foregroundDeletion"]))
            if finalizers:
                metadata["finalizers"] = finalizers
            grace = self._grace(resource, item, grace_seconds)
            before = metadata.get("deletionGracePeriodSeconds")
            if "deletionTimestamp" not in metadata or (before is not None and grace < before):
                at = now() + datetime.timedelta(seconds=grace)
                metadata |= {"deletionTimestamp": timestamp(at), "deletionGracePeriodSeconds": grace}
            if not (finalizers or metadata["deletionGracePeriodSeconds"]):
                self._write(resource, "DELETED", copy.deepcopy(item), item)
                return item, True
            return self._replace(resource, item, after), False

    @staticmethod
    def _grace(resource: Resource, item: Object, requested: int | None) -> int:
        """Only a pod on a node that has not finished gets time (registry/core/pod/strategy.go)."""
        if resource is not PODS or not item["spec"].get("nodeName") or is_finished(item):
            return 0
        return int(item["spec"]["terminationGracePeriodSeconds"]) if requested is None else requested

    def _write(self, resource: Resource, kind: str, item: Object, before: Object | None) -> None:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        key = (resource.plural, *key_of(item))
        if kind == "DELETED":
            del self._items[key]
        else:
            self._items[key] = copy.deepcopy(item)
        self._history.append(Change(self.version, resource.plural, kind, copy.deepcopy(item), before))
        self.changed.notify_all()

    def changes(self, resource: Resource, after: int) -> tuple[Change, ...]:
        """What was written to a resource after a version; 410 if the history does not reach back so far."""
        with self.changed:
            if after < self.oldest:
                raise errors.expired(after, self.oldest)
            return tuple(c for c in self._history if c.version > after and c.resource == resource.plural)

    def compact(self) -> None:
        """Forget the history, so that every watch and every older version expires."""
        with self.changed:
            # A list that is read from now on must have a version that can be watched from.
            self.version += 1
            self.oldest = self.version
            self._history.clear()
            self.changed.notify_all()


def record_event(
    storage: Storage, about: Object, kind: str, reason: str, message: str, component: str, count: int = 1
) -> None:
    """Record an event of type `kind` (Normal or Warning) about an object, once."""
    namespace, name = key_of(about)
    with storage.changed:
        for event in storage.list(EVENTS, namespace or "default"):
            same = event["involvedObject"]["uid"] == about["metadata"]["uid"]
            if same and (event["reason"], event["message"]) == (reason, message):
                return
        metadata = {"name": f"{name}.{uuid.uuid4().hex[:16]}", "namespace": namespace or "default"}
        involved = {"kind": about["kind"], "name": name, "uid": about["metadata"]["uid"]}
        event = {"apiVersion": "v1", "kind": "Event", "metadata": metadata, "involvedObject": involved}
        facts = {"type": kind, "reason": reason, "message": message, "source": {"component": component}}
        storage.create(EVENTS, event | facts | {"firstTimestamp": timestamp(), "count": count})


def collect_garbage(storage: Storage) -> None:
    """One pass: finish foreground deletions, delete objects whose owners are gone."""
    items = [(resource, item) for resource in RESOURCES for item in storage.list(resource)]
    uids = {item["metadata"]["uid"] for _, item in items}
    for resource, item in items:
        is_terminating = "deletionTimestamp" in item["metadata"]
        if is_terminating and "foregroundDeletion" in (item["metadata"].get("finalizers") or []):
            uid = item["metadata"]["uid"]
            dependents = [(kind, other) for kind, other in items if uid in _owners(other)]
            for kind, dependent in dependents:
                if "deletionTimestamp" not in dependent["metadata"]:
                    _delete(storage, kind, dependent, "Foreground")
            if not any(_owners(dependent)[uid] for _, dependent in dependents):
                drop_finalizer(storage, resource, item, "foregroundDeletion")
        elif not is_terminating and _owners(item) and not _owners(item).keys() & uids:
            _delete(storage, resource, item, "Background")


def _owners(item: Object) -> dict[str, bool]:
    """The owners' uids, with blockOwnerDeletion."""
    owners = item["metadata"].get("ownerReferences") or []
    return {owner["uid"]: bool(owner.get("blockOwnerDeletion")) for owner in owners}


def _delete(storage: Storage, resource: Resource, item: Object, policy: str) -> None:
    with contextlib.suppress(ApiError):
        storage.delete(resource, *key_of(item), policy=policy, uid=item["metadata"]["uid"])


def drop_finalizer(storage: Storage, resource: Resource, item: Object, finalizer: str) -> None:
    """Remove a finalizer, which deletes the object when that was all it waited for."""

    def change(target: Object) -> None:
        left = [f for f in target["metadata"].pop("finalizers", None) or [] if f != finalizer]
        if left:
            target["metadata"]["finalizers"] = left

    with contextlib.suppress(ApiError):
        storage.update(resource, *key_of(item), change)
