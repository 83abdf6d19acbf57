"""All objects and their history: what etcd and the registry layer keep.

One lock guards everything; whoever wants to know of changes waits on `changed`. Objects handed out are
copies. A resourceVersion is a global count of writes, and a watch replays the history from one of them.
"""

import copy
import datetime
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.kubernetes_api import clock, errors
from tests.kubernetes_api.resources import PODS, Resource

Object = dict[str, Any]

_WITH_GENERATION = {"jobs", "pods"}
_FINISHED = ("Succeeded", "Failed")


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
        self.expiries = 0
        """How often all watches were made to expire."""
        self.refuse_pods: str | None = None
        """Why an admission plugin, such as a quota, refuses new pods."""
        self.problems: list[Exception] = []
        """Failures of this server itself, which a test must not miss."""

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """The object; 404 if there is none."""
        with self.changed:
            found = self._items.get((resource.plural, namespace, name))
            if found is None:
                raise errors.not_found(resource, name)
            return copy.deepcopy(found)

    def find(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """The object, or None."""
        with self.changed:
            return copy.deepcopy(self._items.get((resource.plural, namespace, name)))

    def list(self, resource: Resource, namespace: str | None = None) -> list[Object]:
        """All objects, ordered by namespace and name."""
        with self.changed:
            keys = sorted(k for k in self._items if k[0] == resource.plural and namespace in (None, k[1]))
            return [copy.deepcopy(self._items[key]) for key in keys]

    def create(self, resource: Resource, item: Object) -> Object:
        """Store a new object with uid, version and creation time; 409 if the name is taken."""
        with self.changed:
            item = copy.deepcopy(item)
            metadata = item["metadata"]
            namespace, name = metadata.get("namespace", ""), metadata["name"]
            if found := self._items.get((resource.plural, namespace, name)):
                deleted = "deletionTimestamp" in found["metadata"]
                raise (errors.being_deleted if deleted else errors.already_exists)(resource, name)
            if resource is PODS and self.refuse_pods is not None:
                raise errors.forbidden(resource, name, self.refuse_pods)
            metadata.setdefault("uid", str(uuid.uuid4()))
            metadata["creationTimestamp"] = clock.stamp()
            if resource.plural in _WITH_GENERATION:
                metadata["generation"] = 1
            self._write(resource, "ADDED", item, None)
            return copy.deepcopy(item)

    def update(
        self, resource: Resource, namespace: str, name: str, change: Callable[[Object], None]
    ) -> Object:
        """Read, change and write in one go; nothing is written when nothing changes."""
        with self.changed:
            before = self.get(resource, namespace, name)
            after = copy.deepcopy(before)
            change(after)
            return self._replace(resource, before, after)

    def _replace(self, resource: Resource, before: Object, after: Object) -> Object:
        if after == before:
            return after
        if resource.plural in _WITH_GENERATION and after.get("spec") != before.get("spec"):
            after["metadata"]["generation"] = before["metadata"]["generation"] + 1
        self._write(resource, "MODIFIED", after, before)
        metadata = after["metadata"]
        waits = metadata.get("finalizers") or metadata.get("deletionGracePeriodSeconds")
        if metadata.get("deletionTimestamp") and not waits:
            self._remove(resource, after)
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
            grace = self._grace(resource, item, grace_seconds)
            finalizer = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}.get(policy)

            def begin(target: Object) -> None:
                metadata = target["metadata"]
                finalizers = metadata.setdefault("finalizers", [])
                if finalizer and finalizer not in finalizers and resource is not PODS:
                    finalizers.append(finalizer)
                if not finalizers:
                    del metadata["finalizers"]
                before = metadata.get("deletionGracePeriodSeconds")
                if "deletionTimestamp" not in metadata or (before is not None and grace < before):
                    at = clock.now() + datetime.timedelta(seconds=grace)
                    metadata |= {"deletionTimestamp": clock.stamp(at), "deletionGracePeriodSeconds": grace}

            after = copy.deepcopy(item)
            begin(after)
            waits = after["metadata"].get("finalizers") or after["metadata"]["deletionGracePeriodSeconds"]
            if not waits:
                self._remove(resource, item)
                return item, True
            return self._replace(resource, item, after), False

    @staticmethod
    def _grace(resource: Resource, item: Object, asked: int | None) -> int:
        """Only a pod on a node that has not finished gets time (registry/core/pod/strategy.go)."""
        if resource is not PODS or not item["spec"].get("nodeName"):
            return 0
        if item.get("status", {}).get("phase") in _FINISHED:
            return 0
        return int(item["spec"].get("terminationGracePeriodSeconds", 30)) if asked is None else asked

    def _remove(self, resource: Resource, item: Object) -> None:
        self._write(resource, "DELETED", copy.deepcopy(item), item)

    def _write(self, resource: Resource, kind: str, item: Object, before: Object | None) -> None:
        self.version += 1
        metadata = item["metadata"]
        metadata["resourceVersion"] = str(self.version)
        key = (resource.plural, metadata.get("namespace", ""), metadata["name"])
        if kind == "DELETED":
            del self._items[key]
        else:
            self._items[key] = copy.deepcopy(item)
        self._history.append(Change(self.version, resource.plural, kind, copy.deepcopy(item), before))
        self.changed.notify_all()

    def changes(self, resource: Resource, after: int) -> Iterator[Change]:
        """What was written to a resource after a version; 410 if the history does not reach back so far."""
        with self.changed:
            if after < self.oldest:
                raise errors.expired(after, self.oldest)
            recent = []
            for change in reversed(self._history):
                if change.version <= after:
                    break
                if change.resource == resource.plural:
                    recent.append(change)
        return reversed(recent)

    def compact(self) -> None:
        """Forget the history, so that every watch and every older version expires."""
        with self.changed:
            # A list that is read from now on must have a version that can be watched from.
            self.version += 1
            self.oldest = self.version
            self._history.clear()
            self.expiries += 1
            self.changed.notify_all()
