"""Rejects invalid manifests and sets defaults (pkg/apis/{core,batch}/validation and v1/defaults.go).

The published OpenAPI schemas come first, then rules that no schema has. Unknown fields are refused, as with
`fieldValidation=Strict`; the real server's default only warns.
"""

import re
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]

from tests.kubernetes_api.errors import bad_request, invalid, not_implemented
from tests.kubernetes_api.objects import JOBS, PODS, SERVICES, Object, Resource
from tests.kubernetes_api.scheduler import parse_quantity

SCHEMA_VERSION = "1.33"

_LABEL_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
_SERVICE_NAME = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
_SUBDOMAIN = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_LABEL_VALUE = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
_LABEL_KEY = re.compile(r"^([a-z0-9][-a-z0-9.]*/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
_SUBDOMAIN_RULE = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'"
_LABEL_RULE = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-'"
_SERVICE_RULE = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', and start with a letter"
_VALUE_RULE = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.'"

_LEFT_OUT = {
    "Job": ("backoffLimitPerIndex", "maxFailedIndexes", "successPolicy", "managedBy", "manualSelector"),
    "pod": (
        "initContainers", "ephemeralContainers", "affinity", "topologySpreadConstraints", "nodeSelector",
        "tolerations", "schedulingGates", "activeDeadlineSeconds", "hostAliases", "nodeName",
    ),
    "container": ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "workingDir"),
}  # fmt: skip

Cause = tuple[str, str, str]


def check(resource: Resource, item: Object) -> None:
    """Raise 400 or 422, or 501 for what this server leaves out."""
    _check_schema(resource, item)
    causes = _names(resource, item)
    if resource is JOBS:
        causes += _job(item)
    elif resource is PODS:
        causes += _pod(item["spec"], "spec")
    if causes:
        raise invalid(resource, item["metadata"].get("name", ""), causes)


def fill_defaults(resource: Resource, item: Object) -> None:
    """Set the defaults, in place. The uid must already be there: a job's selector is made of it."""
    if resource is JOBS:
        _fill_job(item)
    elif resource is PODS:
        _fill_pod(item["spec"])
        item["status"] = {"phase": "Pending"}


def _wrong(field: str, value: object, why: str) -> Cause:
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return "FieldValueInvalid", f"Invalid value: {shown}: {why}", field


def _required(field: str, why: str = "") -> Cause:
    return "FieldValueRequired", "Required value" + (f": {why}" if why else ""), field


def _refuse_left_out(kind: str, spec: Object) -> None:
    for name in _LEFT_OUT[kind]:
        if spec.get(name):
            raise not_implemented(f"{name} of a {kind}")


def _check_schema(resource: Resource, item: Object) -> None:
    if "." in resource.group.removesuffix(".k8s.io"):
        return  # a custom resource, whose schema no package has
    policy = (item.get("spec") or {}).get("podFailurePolicy") or {}
    for rule in policy.get("rules") or []:
        for pattern in rule.get("onPodConditions") or []:
            pattern.setdefault("status", "True")  # the schema requires what the server defaults
    try:
        kubernetes_validate.validate(item, SCHEMA_VERSION, strict=True)
    except kubernetes_validate.ValidationError as problem:
        path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in problem.path).lstrip(".")
        if problem.validator == "required":
            missing = problem.message.split("'")[1]
            causes = [_required(f"{path}.{missing}" if path else missing)]
            raise invalid(resource, item["metadata"].get("name", ""), causes) from None
        text = f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: '
        if problem.validator == "additionalProperties":
            unknown = re.findall(r"'([^']+)' (?:was|were)|'([^']+)',", problem.message)
            field = next((first or second for first, second in unknown), "?")
            raise bad_request(f'{text}strict decoding error: unknown field "{path}.{field}"') from None
        raise bad_request(f"{text}json: cannot unmarshal {path}: {problem.message}") from None


def _names(resource: Resource, item: Object) -> list[Cause]:
    metadata = item["metadata"]
    name = metadata.get("name")
    if not name:
        return [_required("metadata.name", "name or generateName is required")]
    causes = []
    pattern, rule, longest = _SUBDOMAIN, _SUBDOMAIN_RULE, 253
    if resource is SERVICES:
        pattern, rule, longest = _SERVICE_NAME, _SERVICE_RULE, 63
    if len(name) > longest:
        causes.append(_wrong("metadata.name", name, f"must be no more than {longest} bytes"))
    if not pattern.match(name):
        causes.append(_wrong("metadata.name", name, rule))
    return causes + _labels(metadata, "metadata.labels")


def _labels(metadata: Object, field: str) -> list[Cause]:
    causes = []
    for key, value in (metadata.get("labels") or {}).items():
        if not _LABEL_KEY.match(key):
            causes.append(_wrong(field, key, "name part must consist of alphanumeric characters"))
        if len(value) > 63:
            causes.append(_wrong(field, value, "must be no more than 63 bytes"))
        if not _LABEL_VALUE.match(value):
            causes.append(_wrong(field, value, _VALUE_RULE))
    return causes


def _job(job: Object) -> list[Cause]:
    spec, name, template = job["spec"], job["metadata"]["name"], job["spec"]["template"]["spec"]
    _refuse_left_out("Job", spec)
    if spec.get("completionMode") != "Indexed" or spec.get("completions") != spec.get("parallelism"):
        raise not_implemented("Jobs other than Indexed ones with parallelism equal to completions")
    if template.get("restartPolicy") != "Never":
        raise not_implemented("restartPolicy of a Job other than Never")
    causes: list[Cause] = []
    if len(name) > 63:  # it becomes a label of the pods
        causes.append(_wrong("spec.template.labels", name, "must be no more than 63 bytes"))
    hostname, cannot = (
        f"{name}-{max(spec['completions'] - 1, 0)}",
        "will not able to create pod with invalid DNS label",
    )
    if len(hostname) > 63:
        causes.append(_wrong("metadata.name", hostname, f"{cannot}: must be no more than 63 characters"))
    if not _LABEL_NAME.match(hostname):
        causes.append(_wrong("metadata.name", hostname, f"{cannot}: {_LABEL_RULE}"))
    for field in ("completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"):
        if (spec.get(field) or 0) < 0:
            causes.append(_wrong(f"spec.{field}", spec[field], "must be greater than or equal to 0"))
    causes += _failure_policy(spec, [container["name"] for container in template["containers"]])
    causes += _labels(spec["template"].get("metadata") or {}, "spec.template.labels")
    return causes + _pod(template, "spec.template.spec")


def _failure_policy(spec: Object, containers: list[str]) -> list[Cause]:
    policy, causes = spec.get("podFailurePolicy"), []
    if policy and spec.get("podReplacementPolicy") not in (None, "Failed"):
        message = f'Unsupported value: "{spec["podReplacementPolicy"]}": supported values: "Failed"'
        causes.append(("FieldValueNotSupported", message, "spec.podReplacementPolicy"))
    for index, rule in enumerate((policy or {}).get("rules") or []):
        field, codes = f"spec.podFailurePolicy.rules[{index}]", rule.get("onExitCodes")
        if rule["action"] not in ("FailJob", "Ignore", "Count"):
            raise not_implemented(f"the action {rule['action']} of podFailurePolicy")
        if bool(codes) == bool(rule.get("onPodConditions")):
            causes.append(_wrong(field, "{}", "specifying one of OnExitCodes and OnPodConditions is required"))
        if codes:
            values, name = codes["values"], codes.get("containerName")
            if codes["operator"] == "In" and 0 in values:
                causes.append(_wrong(f"{field}.onExitCodes.values", 0, "must not be 0 for the In operator"))
            if values != sorted(set(values)):
                causes.append(_wrong(f"{field}.onExitCodes.values", values, "must be ordered"))
            if name not in (None, *containers):
                why = "must be one of the container or initContainer names in the pod template"
                causes.append(_wrong(f"{field}.onExitCodes.containerName", name, why))
    return causes


def _pod(spec: Object, field: str) -> list[Cause]:
    _refuse_left_out("pod", spec)
    if len(spec["containers"]) != 1:
        raise not_implemented("pods of several containers")
    for volume in spec.get("volumes") or []:
        if others := sorted(set(volume) - {"name", "emptyDir", "persistentVolumeClaim"}):
            raise not_implemented(f"volumes of kind {others[0]}")
    causes = [
        _wrong(f"{field}.{name}", spec[name], _LABEL_RULE)
        for name in ("hostname", "subdomain")
        if spec.get(name) and not (_LABEL_NAME.match(spec[name]) and len(spec[name]) <= 63)
    ]
    volumes = {volume["name"] for volume in spec.get("volumes") or []}
    return causes + _container(spec["containers"][0], volumes, f"{field}.containers[0]")


def _container(container: Object, volumes: set[str], field: str) -> list[Cause]:
    _refuse_left_out("container", container)
    if not container.get("command"):
        raise not_implemented("containers without a command: there is no image to take one from")
    causes: list[Cause] = []
    if not container.get("image"):
        causes.append(_required(f"{field}.image"))
    if not _LABEL_NAME.match(container["name"]):
        causes.append(_wrong(f"{field}.name", container["name"], _LABEL_RULE))
    for number, mount in enumerate(container.get("volumeMounts") or []):
        if mount["name"] not in volumes:
            where = f"{field}.volumeMounts[{number}].name"
            causes.append(("FieldValueNotFound", f'Not found: "{mount["name"]}"', where))
    return causes + _resources(container.get("resources") or {}, f"{field}.resources")


def _resources(resources: Object, field: str) -> list[Cause]:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for name, value in (*limits.items(), *requests.items()):
        try:
            parse_quantity(value)
        except ValueError:
            raise bad_request(f"quantities must match the regular expression ({field}[{name}])") from None
    causes = []
    for name, value in requests.items():
        if "/" in name and name not in limits:
            why = "Limit must be set for non overcommitable resources"
            causes.append(_required(f"{field}.limits", why))
            continue
        limit, bound = limits.get(name, value), "equal to" if "/" in name else "less than or equal to"
        request = parse_quantity(value)
        if request > parse_quantity(limit) or ("/" in name and request != parse_quantity(limit)):
            causes.append(_wrong(f"{field}.requests", value, f"must be {bound} {name} limit of {limit}"))
    return causes


def _fill_job(job: Object) -> None:
    spec, uid, name = job["spec"], job["metadata"]["uid"], job["metadata"]["name"]
    replacement = "Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed"
    for key, value in (("backoffLimit", 6), ("suspend", False), ("podReplacementPolicy", replacement)):
        spec.setdefault(key, value)
    metadata: dict[str, Any] = spec["template"].get("metadata") or {}
    labels = {"batch.kubernetes.io/controller-uid": uid, "batch.kubernetes.io/job-name": name}
    metadata["labels"] = {**(metadata.get("labels") or {}), **labels}
    spec["template"]["metadata"] = metadata
    spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    _fill_pod(spec["template"]["spec"])
    job["status"] = {}


def _fill_pod(spec: Object) -> None:
    spec.setdefault("terminationGracePeriodSeconds", 30)
    resources = spec["containers"][0].setdefault("resources", {})
    if limits := resources.get("limits"):
        resources["requests"] = {**limits, **(resources.get("requests") or {})}
