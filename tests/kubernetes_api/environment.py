"""The environment and command line of a container, composed as the kubelet does it.

Kubernetes documentation: "Define Environment Variables for a Container", "Define Dependent Environment
Variables", "Expose Pod Information to Containers Through Environment Variables".

Nothing is mounted, and no DNS server runs. Instead, names of sibling pods and mount paths of emptyDir volumes
are replaced in the values and arguments that a container gets.
"""

import base64
import re
from collections.abc import Mapping
from pathlib import Path

from tests.kubernetes_api.objects import SECRETS, SERVICES, Object
from tests.kubernetes_api.storage import Storage

_REFERENCE = re.compile(r"\$(\$|\(([^()]*)\))")
_LABEL = re.compile(r"^metadata\.(labels|annotations)\['([^']+)'\]$")
_HOST = r"(?<![\w.-])[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_NOT_REPLACED = ("/dev/shm", "/tmp")
"""The test machine has them, and what tests share with pods often lies under the latter."""


class ConfigError(Exception):
    """The container cannot be made: CreateContainerConfigError with this message."""


def compose(storage: Storage, pod: Object, image: Mapping[str, str], folder: Path) -> tuple[dict[str, str], list[str]]:
    """The environment (over that of the image) and the argument vector of the pod's container."""
    container = pod["spec"]["containers"][0]
    own: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        own |= _secret(storage, pod, source)
    for variable in container.get("env") or []:
        if "valueFrom" in variable:
            own[variable["name"]] = _field(pod, variable["valueFrom"])
        else:
            own[variable["name"]] = _expand(variable.get("value") or "", own)
    command = [_expand(part, own) for part in (*container["command"], *(container.get("args") or []))]

    def resolve(text: str) -> str:
        return _resolve_volumes(pod, folder, _resolve_names(storage, pod, text))

    own = {name: resolve(value) for name, value in own.items()}
    hostname = pod["spec"].get("hostname") or pod["metadata"]["name"]
    return {**image, "TMPDIR": str(folder), "HOSTNAME": hostname, **own}, [resolve(part) for part in command]


def _expand(text: str, known: Mapping[str, str]) -> str:
    """$(NAME) becomes its value; unknown names stay as they are, and $$ is a dollar sign."""

    def value(found: re.Match[str]) -> str:
        return "$" if found[1] == "$" else known.get(found[2], found[0])

    return _REFERENCE.sub(value, text)


def _secret(storage: Storage, pod: Object, source: Object) -> dict[str, str]:
    if set(source) != {"secretRef"}:
        raise ConfigError(f"tests.kubernetes_api does not implement envFrom with {', '.join(source)}")
    name = source["secretRef"]["name"]
    found = storage.find(SECRETS, pod["metadata"]["namespace"], name)
    if found is None:
        raise ConfigError(f'secret "{name}" not found')
    return {key: base64.b64decode(value).decode() for key, value in (found.get("data") or {}).items()}


def _field(pod: Object, source: Object) -> str:
    if "fieldRef" not in source:
        raise ConfigError(f"tests.kubernetes_api does not implement valueFrom with {', '.join(source)}")
    path = source["fieldRef"]["fieldPath"]
    if found := _LABEL.match(path):
        return str((pod["metadata"].get(found[1]) or {}).get(found[2], ""))
    if path in ("metadata.name", "metadata.namespace", "metadata.uid"):
        return str(pod["metadata"][path.partition(".")[2]])
    if path != "status.podIP":
        raise ConfigError(f"tests.kubernetes_api does not implement the field {path}")
    return "127.0.0.1"


def _resolve_names(storage: Storage, pod: Object, text: str) -> str:
    """Replace the DNS names of the pod's siblings by their address; all run on the loopback interface.

    A headless Service gives `<hostname>.<service>[.<namespace>[.svc[.cluster.local]]]` to each pod that it
    selects and that names it as its `subdomain` ("DNS for Services and Pods"). If the Service is missing, is
    not headless or selects other pods, the name stays and fails to resolve, as it would in a cluster.
    """
    subdomain, namespace = pod["spec"].get("subdomain"), pod["metadata"]["namespace"]
    service = storage.find(SERVICES, namespace, subdomain) if subdomain else None
    if service is None or service["spec"].get("clusterIP") != "None":
        return text
    labels, selector = pod["metadata"].get("labels") or {}, service["spec"].get("selector") or {}
    if not selector or any(labels.get(key) != value for key, value in selector.items()):
        return text
    domain = rf"{re.escape(subdomain)}(?:\.{re.escape(namespace)}(?:\.svc(?:\.cluster\.local)?)?)?"
    return re.sub(rf"{_HOST}\.{domain}(?![\w.-])", "127.0.0.1", text)


def _resolve_volumes(pod: Object, folder: Path, text: str) -> str:
    """Replace the mount paths of emptyDir volumes by folders that stand for them; claims are where they are mounted."""
    claims = {v["name"] for v in pod["spec"].get("volumes") or [] if "persistentVolumeClaim" in v}
    for mount in pod["spec"]["containers"][0].get("volumeMounts") or []:
        path = mount["mountPath"].rstrip("/")
        if path not in _NOT_REPLACED and mount["name"] not in claims:
            own = folder / "volumes" / mount["name"]
            own.mkdir(parents=True, exist_ok=True)
            text = re.sub(rf"(?<![\w./-]){re.escape(path)}(?![\w.-])", str(own), text)
    return text
