"""Patches: JSON merge patch (RFC 7396) and strategic merge patch, whose lists merge by a key."""

import copy
from typing import Any

from tests.kubernetes_api.errors import ApiError, omissions

_MERGE_KEYS = {
    "containers": "name", "env": "name", "volumes": "name", "volumeMounts": "mountPath", "conditions": "type",
    "ownerReferences": "uid", "ports": "port", "imagePullSecrets": "name",
}  # fmt: skip
_SETS = ("finalizers",)


def apply(item: dict[str, Any], patch: Any, content_type: str) -> dict[str, Any]:
    """The patched object; 415 for other kinds of patch."""
    if content_type == "application/merge-patch+json":
        return dict(_merge(item, patch, strategic=False))
    if content_type == "application/strategic-merge-patch+json":
        return dict(_merge(item, patch, strategic=True))
    if content_type in ("application/json-patch+json", "application/apply-patch+yaml"):
        raise omissions(f"patches of type {content_type}")
    raise ApiError(
        415, "UnsupportedMediaType", f"the body of the request was in an unknown format - {content_type}"
    )


def _merge(value: Any, patch: Any, *, strategic: bool, field: str = "") -> Any:
    if isinstance(patch, dict):
        if strategic and any(key.startswith("$") for key in patch):
            raise omissions("directives ($patch, $setElementOrder, ...) in strategic merge patches")
        merged = copy.deepcopy(value) if isinstance(value, dict) else {}
        for key, part in patch.items():
            if part is None:
                merged.pop(key, None)
            else:
                merged[key] = _merge(merged.get(key), part, strategic=strategic, field=key)
        return merged
    if strategic and isinstance(patch, list) and isinstance(value, list):
        if field in _SETS:
            return value + [part for part in patch if part not in value]
        if key := _MERGE_KEYS.get(field):
            merged_list = list(value)
            for part in patch:
                for index, old in enumerate(merged_list):
                    if old.get(key) == part.get(key):
                        merged_list[index] = _merge(old, part, strategic=True)
                        break
                else:
                    merged_list.append(part)
            return merged_list
    return copy.deepcopy(patch)
