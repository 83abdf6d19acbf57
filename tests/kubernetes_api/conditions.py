"""Conditions in an object's status."""

from typing import Any

from tests.kubernetes_api import clock


def set_condition(item: dict[str, Any], kind: str, status: str, reason: str = "", message: str = "") -> None:
    """Set a condition; its transition time moves only when its status does."""
    conditions = item["status"].setdefault("conditions", [])
    new = {"type": kind, "status": status}
    new |= {key: value for key, value in (("reason", reason), ("message", message)) if value}
    for index, old in enumerate(conditions):
        if old["type"] == kind:
            moved = old["status"] != status
            since = clock.stamp() if moved else old["lastTransitionTime"]
            conditions[index] = {**new, "lastProbeTime": old["lastProbeTime"], "lastTransitionTime": since}
            return
    conditions.append({**new, "lastProbeTime": clock.stamp(), "lastTransitionTime": clock.stamp()})


def has_condition(item: dict[str, Any], kind: str) -> bool:
    """Whether a condition is True."""
    return condition(item, kind).get("status") == "True"


def condition(item: dict[str, Any], kind: str) -> dict[str, Any]:
    """A condition, or {}."""
    found = [c for c in item.get("status", {}).get("conditions", []) if c["type"] == kind]
    return found[0] if found else {}
