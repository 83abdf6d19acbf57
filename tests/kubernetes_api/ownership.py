"""Which objects belong to which, and what is deleted when an owner goes (the garbage collector)."""

import contextlib

from tests.kubernetes_api.errors import ApiError
from tests.kubernetes_api.resources import RESOURCES, Resource
from tests.kubernetes_api.storage import Object, Storage


def reference(owner: Object) -> dict[str, object]:
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
    """uid of the controlling owner."""
    owners = item["metadata"].get("ownerReferences") or []
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def collect_garbage(storage: Storage) -> None:
    """One pass: finish foreground and orphaning deletions, delete what has no owner left."""
    items = [(resource, item) for resource in RESOURCES for item in storage.list(resource)]
    uids = {item["metadata"]["uid"] for _, item in items}
    for resource, item in items:
        finalizers = item["metadata"].get("finalizers") or []
        if not item["metadata"].get("deletionTimestamp"):
            continue
        dependents = [(r, d) for r, d in items if item["metadata"]["uid"] in _owners(d)]
        if "orphan" in finalizers:
            for kind, dependent in dependents:
                _disown(storage, kind, dependent, item["metadata"]["uid"])
            _finish(storage, resource, item, "orphan")
        elif "foregroundDeletion" in finalizers:
            for kind, dependent in dependents:
                if not dependent["metadata"].get("deletionTimestamp"):
                    _delete(storage, kind, dependent, "Foreground")
            if not [d for _, d in dependents if _blocks(d, item["metadata"]["uid"])]:
                _finish(storage, resource, item, "foregroundDeletion")
    for resource, item in items:
        owners = _owners(item)
        if owners and not owners & uids and not item["metadata"].get("deletionTimestamp"):
            _delete(storage, resource, item, "Background")


def _owners(item: Object) -> set[str]:
    return {owner["uid"] for owner in item["metadata"].get("ownerReferences") or []}


def _blocks(item: Object, uid: str) -> bool:
    owners = item["metadata"].get("ownerReferences") or []
    return any(owner["uid"] == uid and owner.get("blockOwnerDeletion") for owner in owners)


def _delete(storage: Storage, resource: Resource, item: Object, policy: str) -> None:
    metadata = item["metadata"]
    with contextlib.suppress(ApiError):
        storage.delete(
            resource, metadata.get("namespace", ""), metadata["name"], policy=policy, uid=metadata["uid"]
        )


def _disown(storage: Storage, resource: Resource, item: Object, uid: str) -> None:
    def change(target: Object) -> None:
        owners = [o for o in target["metadata"].pop("ownerReferences") if o["uid"] != uid]
        if owners:
            target["metadata"]["ownerReferences"] = owners

    with contextlib.suppress(ApiError):
        storage.update(resource, item["metadata"].get("namespace", ""), item["metadata"]["name"], change)


def _finish(storage: Storage, resource: Resource, item: Object, finalizer: str) -> None:
    drop_finalizer(storage, resource, item, finalizer)


def drop_finalizer(storage: Storage, resource: Resource, item: Object, finalizer: str) -> None:
    """Take a finalizer off an object, which removes it when that was all it waited for."""

    def change(target: Object) -> None:
        left = [f for f in target["metadata"].get("finalizers") or [] if f != finalizer]
        target["metadata"]["finalizers"] = left
        if not left:
            del target["metadata"]["finalizers"]

    with contextlib.suppress(ApiError):
        storage.update(resource, item["metadata"].get("namespace", ""), item["metadata"]["name"], change)
