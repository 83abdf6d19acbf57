"""What the API server fills in when an object is created (pkg/apis/{core,batch}/v1/defaults.go)."""

import base64
from typing import Any

from tests.kubernetes_api.resources import JOBS, PODS, SECRETS, SERVICES, Resource
from tests.kubernetes_api.storage import Object


def fill(resource: Resource, item: Object) -> None:
    """Set the defaults, in place. The uid must already be there: a job's selector is made of it."""
    if resource is JOBS:
        _job(item)
    elif resource is PODS:
        _pod_spec(item["spec"])
        item["spec"].setdefault("restartPolicy", "Always")
        item["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
    elif resource is SECRETS:
        written = {name: value.encode() for name, value in (item.pop("stringData", None) or {}).items()}
        encoded = {name: base64.b64encode(value).decode() for name, value in written.items()}
        item["data"] = {**(item.get("data") or {}), **encoded}
        item.setdefault("type", "Opaque")
    elif resource is SERVICES:
        spec = item.setdefault("spec", {})
        spec.setdefault("type", "ClusterIP")
        spec.setdefault("sessionAffinity", "None")
        spec.setdefault("clusterIP", "10.96.0.1")
        spec.setdefault("clusterIPs", [spec["clusterIP"]])
        for port in spec.get("ports") or []:
            port.setdefault("protocol", "TCP")
            port.setdefault("targetPort", port["port"])
        item["status"] = {"loadBalancer": {}}


def fill_before_validation(item: Object) -> None:
    """The one default for a field that the published schema wants and a manifest may leave out."""
    policy = (item.get("spec") or {}).get("podFailurePolicy") or {}
    for rule in policy.get("rules") or []:
        for pattern in rule.get("onPodConditions") or []:
            pattern.setdefault("status", "True")


def _job(job: Object) -> None:
    spec = job["spec"]
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = spec["parallelism"] = 1
    for name, value in (
        ("parallelism", 1),
        ("backoffLimit", 6),
        ("completionMode", "NonIndexed"),
        ("suspend", False),
        ("manualSelector", False),
    ):
        if spec.get(name) is None:
            spec[name] = value
    replacement = "Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed"
    spec["podReplacementPolicy"] = spec.get("podReplacementPolicy") or replacement
    uid, name = job["metadata"]["uid"], job["metadata"]["name"]
    template = spec["template"].get("metadata") or {}
    spec["template"]["metadata"] = template
    template["labels"] = {
        **(template.get("labels") or {}),
        "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": name,
        "controller-uid": uid,
        "job-name": name,
    }
    spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    _pod_spec(spec["template"]["spec"])
    job["metadata"].setdefault("labels", dict(template["labels"]))
    job["status"] = {}


def _pod_spec(spec: dict[str, Any]) -> None:
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("securityContext", {})
    for container in spec["containers"]:
        container.setdefault("resources", {})
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        tag = container["image"].rpartition("/")[2]
        latest = ":" not in tag or tag.endswith(":latest")
        container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
        for name, limit in (container["resources"].get("limits") or {}).items():
            container["resources"].setdefault("requests", {})
            container["resources"]["requests"].setdefault(name, limit)
