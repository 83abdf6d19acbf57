"""Events, as the controllers record them: a repeated one raises its count."""

import uuid
from typing import Any

from tests.kubernetes_api import clock
from tests.kubernetes_api.resources import EVENTS
from tests.kubernetes_api.storage import Object, Storage


def record(storage: Storage, about: Object, kind: str, reason: str, message: str, component: str) -> None:
    """Record an event of type `kind` (Normal or Warning) about an object."""
    metadata = about["metadata"]
    namespace = metadata.get("namespace", "default")
    with storage.changed:
        for event in storage.list(EVENTS, namespace):
            same = event["involvedObject"]["uid"] == metadata["uid"]
            if same and (event["reason"], event["message"]) == (reason, message):
                storage.update(EVENTS, namespace, event["metadata"]["name"], _again)
                return
        storage.create(
            EVENTS,
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": f"{metadata['name']}.{uuid.uuid4().hex[:16]}", "namespace": namespace},
                "involvedObject": {
                    "kind": about["kind"],
                    "apiVersion": about["apiVersion"],
                    "namespace": namespace,
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                    "resourceVersion": metadata["resourceVersion"],
                },
                "type": kind,
                "reason": reason,
                "message": message,
                "source": {"component": component},
                "reportingComponent": component,
                "reportingInstance": "",
                "firstTimestamp": clock.stamp(),
                "lastTimestamp": clock.stamp(),
                "eventTime": None,
                "count": 1,
            },
        )


def _again(event: dict[str, Any]) -> None:
    event["count"] += 1
    event["lastTimestamp"] = clock.stamp()
