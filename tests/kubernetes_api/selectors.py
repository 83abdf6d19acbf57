"""Label and field selectors (Kubernetes documentation, "Labels and Selectors", "Field Selectors")."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.kubernetes_api.errors import bad_request
from tests.kubernetes_api.resources import Resource

Matches = Callable[[Mapping[str, Any]], bool]

_SET = re.compile(r"^(?P<key>\S+)\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)$")
_EQUAL = re.compile(r"^(?P<key>[^=!\s]+)\s*(?P<op>==|=|!=)\s*(?P<value>[^=!\s]*)$")
_KEY = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$")


def label_selector(text: str) -> Matches:
    """A test of an object's labels; 400 for a selector that cannot be parsed."""
    tests = [_requirement(part.strip()) for part in re.split(r",(?![^(]*\))", text) if part.strip()]
    return lambda item: all(test(item.get("metadata", {}).get("labels") or {}) for test in tests)


def _requirement(part: str) -> Matches:
    if found := _SET.match(part):
        key, values = found["key"], {value.strip() for value in found["values"].split(",")}
        if found["op"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if found := _EQUAL.match(part):
        key, value = found["key"], found["value"]
        if found["op"] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if part.startswith("!") and _KEY.match(part[1:].strip()):
        key = part[1:].strip()
        return lambda labels: key not in labels
    if _KEY.match(part):
        return lambda labels: part in labels
    raise bad_request(f"unable to parse requirement: found '{part}', expected: ',' or 'end of string'")


def field_selector(resource: Resource, text: str) -> Matches:
    """A test of an object's fields; 400 for a field that this resource cannot be selected by."""
    tests: list[Matches] = []
    for part in filter(None, text.split(",")):
        found = _EQUAL.match(part.strip())
        if found is None:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        name, wanted, negated = found["key"], found["value"], found["op"] == "!="
        if name not in (*resource.fields, "metadata.name", "metadata.namespace"):
            raise bad_request(
                f'Unable to find "{resource.group}/{resource.version}, Resource={resource.plural}"'
                f' that match label selector "", field selector "{text}": field label not supported: {name}'
            )
        tests.append(_field_test(name, wanted, negated))
    return lambda item: all(test(item) for test in tests)


def _field_test(name: str, wanted: str, negated: bool) -> Matches:
    return lambda item: (_field(item, name) == wanted) is not negated


def _field(item: Mapping[str, Any], name: str) -> str:
    if name == "status.successful":
        return str(item.get("status", {}).get("succeeded", 0))
    if name == "source":
        return str(item.get("source", {}).get("component", ""))
    value: Any = item
    for part in name.split("."):
        value = value.get(part, {}) if isinstance(value, Mapping) else {}
    return "" if value in ({}, None) else str(value)
