"""Refuses broken manifests: the published OpenAPI schemas first, then rules that no schema has.

Unknown fields are refused too, as with `fieldValidation=Strict`; the real server's default only warns.
"""

import re
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]

from tests.kubernetes_api import quantity
from tests.kubernetes_api.errors import bad_request, invalid, omissions
from tests.kubernetes_api.resources import JOBS, PODS, SERVICES, Resource
from tests.kubernetes_api.storage import Object

SCHEMA_VERSION = "1.33"
_LABEL_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
_SUBDOMAIN = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_LABEL_VALUE = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
_LABEL_KEY = re.compile(r"^([a-z0-9][-a-z0-9.]*/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
_SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must"
    " start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is"
    " '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start"
    " and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is"
    " '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must"
    " start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used"
    " for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)

_SERVICE_NAME = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
_SERVICE_NAME_RULE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic"
    " character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for"
    " validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
)
_SUPPORTED = {
    "completionMode": ("Indexed", "NonIndexed"),
    "podReplacementPolicy": ("Failed", "TerminatingOrFailed"),
}
_LEFT_OUT_OF_PODS = (
    "initContainers",
    "ephemeralContainers",
    "affinity",
    "topologySpreadConstraints",
    "activeDeadlineSeconds",
    "hostAliases",
    "resourceClaims",
)
_LEFT_OUT_OF_CONTAINERS = ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "restartPolicy")

Cause = tuple[str, str, str]


def required(field: str) -> Cause:
    """A missing field."""
    return "FieldValueRequired", "Required value", field


def wrong(field: str, value: object, why: str) -> Cause:
    """A field with a value it cannot have."""
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return "FieldValueInvalid", f"Invalid value: {shown}: {why}", field


def forbidden_change(field: str, value: object) -> Cause:
    """A field that never changes."""
    return "FieldValueInvalid", f"Invalid value: {value}: field is immutable", field


def check(resource: Resource, item: Object) -> None:
    """Raise 400 or 422, or 501 for what this server leaves out."""
    _check_schema(resource, item)
    causes = list(_names(resource, item))
    if resource is JOBS:
        causes += _job(item)
    elif resource is PODS:
        causes += _pod(item["spec"], "spec")
    if causes:
        raise invalid(resource, item["metadata"].get("name", ""), causes)


def _check_schema(resource: Resource, item: Object) -> None:
    try:
        kubernetes_validate.validate(item, SCHEMA_VERSION, strict=True)
    except kubernetes_validate.ValidationError as problem:
        path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in problem.path).lstrip(".")
        name = item["metadata"].get("name", "")
        if problem.validator == "required":
            missing = problem.message.split("'")[1]
            raise invalid(resource, name, [required(f"{path}.{missing}" if path else missing)]) from None
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
        return [("FieldValueRequired", "Required value: name or generateName is required", "metadata.name")]
    causes = []
    as_label = resource is SERVICES
    longest = 63 if as_label else 253
    if len(name) > longest:
        causes.append(wrong("metadata.name", name, f"must be no more than {longest} bytes"))
    if not (_SERVICE_NAME if as_label else _SUBDOMAIN).match(name):
        causes.append(wrong("metadata.name", name, _SERVICE_NAME_RULE if as_label else _SUBDOMAIN_RULE))
    return causes + _labels(metadata, "metadata.labels")


def _labels(metadata: dict[str, Any], field: str) -> list[Cause]:
    causes = []
    for key, value in (metadata.get("labels") or {}).items():
        if not _LABEL_KEY.match(key):
            causes.append(
                wrong(field, key, "name part must consist of alphanumeric characters, '-', '_' or '.'")
            )
        if len(value) > 63:
            causes.append(wrong(field, value, "must be no more than 63 bytes"))
        if not _LABEL_VALUE.match(value):
            causes.append(wrong(field, value, _VALUE_RULE))
    return causes


def _job(job: Object) -> list[Cause]:
    spec = job["spec"]
    for name in ("backoffLimitPerIndex", "maxFailedIndexes", "successPolicy", "managedBy"):
        if spec.get(name) is not None:
            raise omissions(f"spec.{name} of a Job")
    causes: list[Cause] = []
    for name, values in _SUPPORTED.items():
        if spec.get(name) not in (None, *values):
            listed = ", ".join(f'"{value}"' for value in values)
            message = f'Unsupported value: "{spec[name]}": supported values: {listed}'
            causes.append(("FieldValueNotSupported", message, f"spec.{name}"))
    name = job["metadata"]["name"]
    if len(name) > 63:  # it becomes a label of the pods
        causes.append(wrong("spec.template.labels", name, "must be no more than 63 bytes"))
    template = spec["template"]["spec"]
    policy = template.get("restartPolicy")
    if policy not in ("Never", "OnFailure"):
        supported = 'supported values: "OnFailure", "Never"'
        message = f'Unsupported value: "{policy or "Always"}": {supported}'
        causes.append(("FieldValueNotSupported", message, "spec.template.spec.restartPolicy"))
    if spec.get("completionMode") == "Indexed":
        if spec.get("completions") is None:
            message = "Required value: when completion mode is Indexed"
            causes.append(("FieldValueRequired", message, "spec.completions"))
        else:
            # The pod's hostname is a DNS label of the job's name and its index.
            longest = f"{job['metadata']['name']}-{max(spec['completions'] - 1, 0)}"
            cannot = "will not able to create pod with invalid DNS label"
            if len(longest) > 63:
                why = f"{cannot}: must be no more than 63 characters"
                causes.append(wrong("metadata.name", longest, why))
            if not _LABEL_NAME.match(longest):
                causes.append(wrong("metadata.name", longest, f"{cannot}: {_LABEL_RULE}"))
    for name in (
        "parallelism",
        "completions",
        "backoffLimit",
        "activeDeadlineSeconds",
        "ttlSecondsAfterFinished",
    ):
        if (spec.get(name) or 0) < 0:
            causes.append(wrong(f"spec.{name}", spec[name], "must be greater than or equal to 0"))
    causes += _failure_policy(spec, template)
    causes += _labels(spec["template"].get("metadata") or {}, "spec.template.labels")
    if policy == "OnFailure":
        raise omissions("restartPolicy OnFailure")
    return causes + _pod(template, "spec.template.spec")


def _failure_policy(spec: dict[str, Any], template: dict[str, Any]) -> list[Cause]:
    policy, causes = spec.get("podFailurePolicy"), []
    if not policy:
        return []
    if template.get("restartPolicy") != "Never":
        why = 'only "Never" is supported when podFailurePolicy is specified'
        causes.append(wrong("spec.template.spec.restartPolicy", template.get("restartPolicy"), why))
    if spec.get("podReplacementPolicy") not in (None, "Failed"):
        message = f'Unsupported value: "{spec["podReplacementPolicy"]}": supported values: "Failed"'
        causes.append(("FieldValueNotSupported", message, "spec.podReplacementPolicy"))
    names = [container["name"] for container in template["containers"]]
    for index, rule in enumerate(policy["rules"]):
        field = f"spec.podFailurePolicy.rules[{index}]"
        if rule["action"] == "FailIndex":
            raise omissions("the action FailIndex of podFailurePolicy")
        if rule["action"] not in ("FailJob", "Ignore", "Count"):
            supported = '"Count", "FailIndex", "FailJob", "Ignore"'
            message = f'Unsupported value: "{rule["action"]}": supported values: {supported}'
            causes.append(("FieldValueNotSupported", message, f"{field}.action"))
        codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions")
        if bool(codes) == bool(conditions):
            causes.append(wrong(field, "{}", "specifying one of OnExitCodes and OnPodConditions is required"))
        if codes:
            if codes["operator"] not in ("In", "NotIn"):
                message = f'Unsupported value: "{codes["operator"]}": supported values: "In", "NotIn"'
                causes.append(("FieldValueNotSupported", message, f"{field}.onExitCodes.operator"))
            if codes["operator"] == "In" and 0 in codes["values"]:
                why = "must not be 0 for the In operator"
                causes.append(wrong(f"{field}.onExitCodes.values", 0, why))
            if codes["values"] != sorted(set(codes["values"])):
                causes.append(wrong(f"{field}.onExitCodes.values", codes["values"], "must be ordered"))
            if codes.get("containerName") not in (None, *names):
                why = "must be one of the container or initContainer names in the pod template"
                causes.append(wrong(f"{field}.onExitCodes.containerName", codes["containerName"], why))
    return causes


def _pod(spec: dict[str, Any], field: str) -> list[Cause]:
    causes: list[Cause] = []
    if not spec["containers"]:
        causes.append(required(f"{field}.containers"))
    for name in _LEFT_OUT_OF_PODS:
        if spec.get(name):
            raise omissions(f"{name} of a pod")
    if len(spec["containers"]) > 1:
        raise omissions("pods of several containers")
    for volume in spec.get("volumes") or []:
        if set(volume) - {"name", "emptyDir"}:
            raise omissions(f"volumes other than emptyDir ({', '.join(sorted(set(volume) - {'name'}))})")
    for name in ("hostname", "subdomain"):
        if spec.get(name) and not (_LABEL_NAME.match(spec[name]) and len(spec[name]) <= 63):
            causes.append(wrong(f"{field}.{name}", spec[name], _LABEL_RULE))
    volumes = {volume["name"] for volume in spec.get("volumes") or []}
    for index, container in enumerate(spec["containers"]):
        causes += _container(container, volumes, f"{field}.containers[{index}]")
    return causes


def _container(container: dict[str, Any], volumes: set[str], field: str) -> list[Cause]:
    causes: list[Cause] = []
    for name in _LEFT_OUT_OF_CONTAINERS:
        if container.get(name):
            raise omissions(f"{name} of a container")
    if not container.get("image"):
        causes.append(required(f"{field}.image"))
    if not (_LABEL_NAME.match(container["name"]) and len(container["name"]) <= 63):
        causes.append(wrong(f"{field}.name", container["name"], _LABEL_RULE))
    if not container.get("command"):
        raise omissions("containers without a command: there is no image to take one from")
    for number, mount in enumerate(container.get("volumeMounts") or []):
        if mount["name"] not in volumes:
            message = f'Not found: "{mount["name"]}"'
            causes.append(("FieldValueNotFound", message, f"{field}.volumeMounts[{number}].name"))
    resources = container.get("resources") or {}
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for part, amounts in (("limits", limits), ("requests", requests)):
        for name, value in amounts.items():
            try:
                quantity.parse(value)
            except ValueError:
                raise bad_request(
                    "quantities must match the regular expression"
                    " '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                    f" ({field}.resources.{part}[{name}]: {value!r})"
                ) from None
    for name, value in requests.items():
        where = f"{field}.resources.requests"
        if "/" in name and name not in limits:
            causes.append(
                (
                    "FieldValueRequired",
                    "Required value: Limit must be set for non overcommitable resources",
                    f"{field}.resources.limits",
                )
            )
        elif "/" in name and quantity.parse(value) != quantity.parse(limits[name]):
            causes.append(wrong(where, str(value), f"must be equal to {name} limit of {limits[name]}"))
        elif name in limits and quantity.parse(value) > quantity.parse(limits[name]):
            causes.append(
                wrong(where, str(value), f"must be less than or equal to {name} limit of {limits[name]}")
            )
    return causes
