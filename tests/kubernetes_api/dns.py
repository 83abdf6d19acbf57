"""What the cluster's DNS would answer, without a DNS server.

A headless Service gives `<hostname>.<service>[.<namespace>[.svc[.cluster.local]]]` to each pod that it
selects and that names it as its `subdomain` (Kubernetes documentation, "DNS for Services and Pods"). All pods
here run on the loopback address and nothing on the test machine resolves such names, so they are replaced by
127.0.0.1 in the values and arguments that a container gets. If the Service is missing, is not headless or
selects other pods, the name stays and fails to resolve, as it would in a cluster.
"""

import re

from tests.kubernetes_api.resources import SERVICES
from tests.kubernetes_api.storage import Object, Storage

_HOST = r"(?<![\w.-])[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"


def resolve(storage: Storage, pod: Object, text: str) -> str:
    """The text with the names of the pod's siblings replaced by their address."""
    subdomain, namespace = pod["spec"].get("subdomain"), pod["metadata"]["namespace"]
    service = storage.find(SERVICES, namespace, subdomain) if subdomain else None
    if service is None or service["spec"].get("clusterIP") != "None":
        return text
    labels = pod["metadata"].get("labels") or {}
    selector = service["spec"].get("selector") or {}
    if not selector or any(labels.get(key) != value for key, value in selector.items()):
        return text
    domain = rf"{re.escape(subdomain)}(?:\.{re.escape(namespace)}(?:\.svc(?:\.cluster\.local)?)?)?"
    return re.sub(rf"{_HOST}\.{domain}(?![\w.-])", "127.0.0.1", text)
