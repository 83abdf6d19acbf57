"""The environment and command line of a container, composed as the kubelet does it.

Kubernetes documentation: "Define Environment Variables for a Container", "Define Dependent Environment
Variables", "Expose Pod Information to Containers Through Environment Variables".
"""

import base64
import re
from collections.abc import Mapping
from pathlib import Path

from tests.kubernetes_api import dns, volumes
from tests.kubernetes_api.resources import CONFIG_MAPS, SECRETS
from tests.kubernetes_api.storage import Object, Storage

_REFERENCE = re.compile(r"\$(\$|\(([^()]*)\))")
_LABEL = re.compile(r"^metadata\.(labels|annotations)\['([^']+)'\]$")


class ConfigError(Exception):
    """The container cannot be made: CreateContainerConfigError with this message."""


def expand(text: str, known: Mapping[str, str]) -> str:
    """$(NAME) becomes its value; unknown names stay as they are, and $$ is a dollar sign."""

    def value(found: re.Match[str]) -> str:
        if found[1] == "$":
            return "$"
        return known.get(found[2], found[0])

    return _REFERENCE.sub(value, text)


def compose(
    storage: Storage, pod: Object, image: Mapping[str, str], folder: Path
) -> tuple[dict[str, str], list[str]]:
    """The environment (over that of the image) and the argument vector of the pod's container."""
    container = pod["spec"]["containers"][0]
    own: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        own |= _from_source(storage, pod, source)
    for variable in container.get("env") or []:
        if "valueFrom" in variable:
            found = _from_reference(storage, pod, variable["valueFrom"])
            if found is not None:
                own[variable["name"]] = found
        else:
            own[variable["name"]] = expand(variable.get("value") or "", own)
    command = [expand(part, own) for part in (container.get("command") or [])]
    command += [expand(part, own) for part in (container.get("args") or [])]

    def resolve(text: str) -> str:
        return volumes.resolve(pod, folder, dns.resolve(storage, pod, text))

    hostname = pod["spec"].get("hostname") or pod["metadata"]["name"]
    own = {name: resolve(value) for name, value in own.items()}
    environment = {**image, "TMPDIR": str(folder), "HOSTNAME": hostname, **own}
    return environment, [resolve(part) for part in command]


def _from_source(storage: Storage, pod: Object, source: Object) -> dict[str, str]:
    key, resource = ("secretRef", SECRETS) if "secretRef" in source else ("configMapRef", CONFIG_MAPS)
    name = source[key]["name"]
    found = storage.find(resource, pod["metadata"]["namespace"], name)
    if found is None:
        if source[key].get("optional"):
            return {}
        raise ConfigError(f'{resource.kind.lower()} "{name}" not found')
    prefix = source.get("prefix") or ""
    return {prefix + name: value for name, value in _data(found).items()}


def _from_reference(storage: Storage, pod: Object, source: Object) -> str | None:
    if "fieldRef" in source:
        return _field(pod, source["fieldRef"]["fieldPath"])
    if "resourceFieldRef" in source:
        raise ConfigError("tests.kubernetes_api does not implement resourceFieldRef")
    key, resource = (
        ("secretKeyRef", SECRETS) if "secretKeyRef" in source else ("configMapKeyRef", CONFIG_MAPS)
    )
    reference, namespace = source[key], pod["metadata"]["namespace"]
    found = storage.find(resource, namespace, reference["name"])
    if found is None and not reference.get("optional"):
        raise ConfigError(f'{resource.kind.lower()} "{reference["name"]}" not found')
    data = _data(found) if found else {}
    if reference["key"] not in data and not reference.get("optional"):
        where = f"{namespace}/{reference['name']}"
        raise ConfigError(f"couldn't find key {reference['key']} in {resource.kind} {where}")
    return data.get(reference["key"])


def _data(item: Object) -> dict[str, str]:
    data = item.get("data") or {}
    if item["kind"] == "Secret":
        return {name: base64.b64decode(value).decode() for name, value in data.items()}
    return dict(data)


def _field(pod: Object, path: str) -> str:
    if found := _LABEL.match(path):
        return str((pod["metadata"].get(found[1]) or {}).get(found[2], ""))
    if path in ("status.podIP", "status.hostIP", "status.podIPs", "status.hostIPs"):
        return "127.0.0.1"
    fields = {
        "metadata.name": pod["metadata"]["name"],
        "metadata.namespace": pod["metadata"]["namespace"],
        "metadata.uid": pod["metadata"]["uid"],
        "spec.nodeName": pod["spec"].get("nodeName", ""),
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName", "default"),
    }
    return str(fields[path])
