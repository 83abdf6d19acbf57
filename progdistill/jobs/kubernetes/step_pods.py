"""What the cluster would refuse of a deployed schedule: a dry run of the pods of its steps."""

import json
from collections.abc import Iterator
from typing import Any, Final

from progdistill.config.pod_patch import patched
from progdistill.jobs.kubernetes.api import ClusterApi, ForbiddenError, Object
from progdistill.jobs.kubernetes.dry_run import refusal_of

_FLOWS: Final = ("DistillFlow", "SweepFlow")
_OF_THE_POD: Final = {
    **{name: name for name in ("affinity", "nodeSelector", "tolerations", "volumes", "serviceAccountName")},
    "activeDeadlineSeconds": "activeDeadlineSeconds",
    "imagePullSecrets": "imagePullSecrets",
    "priorityClassName": "podPriorityClassName",
    "securityContext": "securityContext",
}
"""Fields of a pod's spec that a template has, and what a whole workflow calls them."""


def refused_schedules(api: ClusterApi) -> list[str] | None:
    """Why the cluster would refuse pods of the flow's WorkflowTemplates in this namespace.

    Returns:
        One message for each reason; None where there is no such template, or this user may not list or create them.

    Raises:
        TransientError: The API server does not answer.
    """
    try:
        listed = (api.get(api.path("argoproj.io/v1alpha1", "workflowtemplates")) or {}).get("items", [])
    except ForbiddenError:
        return None
    ours = [item for item in listed if _annotations(item).get("metaflow/flow_name") in _FLOWS]
    reasons: dict[str, str] = {}
    for template in ours:
        for step, pod in step_pods(template):
            if (refusal := refusal_of(api, api.path("v1", "pods"), pod)) is not None:
                reasons.setdefault(refusal, f"{template['metadata']['name']}, step {step}: {refusal}")
    return list(reasons.values()) if ours else None


def step_pods(template: Object) -> Iterator[tuple[str, Object]]:
    """The pods of a WorkflowTemplate's steps, as Argo makes them, but for the containers that it adds.

    Yields:
        The name of each step, and its pod.
    """
    whole, name = template["spec"], template["metadata"]["name"]
    for part in whole["templates"]:
        if "container" not in part:
            continue
        spec = {field: part.get(field) or whole.get(other) for field, other in _OF_THE_POD.items()}
        spec |= {"restartPolicy": "Never", "containers": [part["container"]]}
        spec = patched(_without_none(spec), json.loads(part.get("podSpecPatch") or "{}"))
        labels = (part.get("metadata") or {}).get("labels") or {}
        known = {key: value for key, value in labels.items() if "{{" not in value}  # before the workflow runs
        metadata = {"name": f"{name[:50]}-dry-run", "labels": known}
        yield part["name"], {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _annotations(item: Object) -> dict[str, str]:
    return item["metadata"].get("annotations") or {}


def _without_none(value: Any) -> Any:
    """As the API server reads it: Metaflow writes what is not set as null."""
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, list) else value
