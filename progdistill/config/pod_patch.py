"""Strategic merge patches of a pod's spec, as `kubectl patch --type strategic` applies them."""

import copy
from collections.abc import Iterator
from typing import Any, Final

from pydantic import JsonValue

from progdistill.config.secrets import check_no_secrets

CONTAINER: Final = "worker"
"""The launcher's container."""

_MERGE_KEYS: Final = {
    **dict.fromkeys(("containers", "initContainers", "volumes", "env", "imagePullSecrets", "resourceClaims"), "name"),
    **{"volumeMounts": "mountPath", "volumeDevices": "devicePath", "ports": "containerPort", "hostAliases": "ip"},
    "topologySpreadConstraints": "topologyKey",
}
"""Lists whose items are merged by a key (`patchMergeKey` of k8s.io/api/core/v1); others are replaced."""

_OURS: Final = ("restartPolicy", "hostname", "subdomain")
_OURS_OF_CONTAINER: Final = ("command", "args")


def patched(value: Any, patch: Any, field: str = "") -> Any:
    """A copy of JSON with a checked patch applied: objects are merged, null removes, lists go by their merge key."""
    if isinstance(patch, dict):
        before = value if isinstance(value, dict) else {}
        changed = {key: patched(before.get(key), part, key) for key, part in patch.items() if part is not None}
        return {**{key: copy.deepcopy(part) for key, part in before.items() if key not in patch}, **changed}
    if isinstance(patch, list) and isinstance(value, list) and (name := _MERGE_KEYS.get(field)):
        changes = {item[name]: item for item in patch}
        kept = [patched(item, changes.pop(item[name], {})) for item in value]
        return kept + [patched({}, item) for item in changes.values()]
    return copy.deepcopy(patch)


def check_patch(patch: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the patch; ValueError if it is no patch, has a secret, or changes what the launcher needs."""
    for field, item in _objects(patch, ""):
        if directive := next((key for key in item if key.startswith("$")), None):
            raise ValueError(f"{directive} is not supported: null removes a field")
        if field in _MERGE_KEYS and _MERGE_KEYS[field] not in item:
            raise ValueError(
                f"each item of {field} needs {_MERGE_KEYS[field]}; the launcher's container is {CONTAINER}"
            )
        if field == "env" and isinstance(item.get("value"), str):
            check_no_secrets({str(item["name"]): item["value"]})
        names = _OURS_OF_CONTAINER if field == "containers" and item["name"] == CONTAINER else () if field else _OURS
        if ours := [name for name in names if name in item]:
            raise ValueError(f"{ours[0]} is what the launcher itself needs: leave it out")
    return patch


def _objects(value: Any, field: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object in JSON, with the field that holds it or its list; an item of a keyed list that is none is {}."""
    if isinstance(value, dict):
        yield field, value
        for key, inner in value.items():
            yield from _objects(inner, key)
    elif isinstance(value, list):
        for item in value:
            yield from _objects(item if isinstance(item, dict) or field not in _MERGE_KEYS else {}, field)
