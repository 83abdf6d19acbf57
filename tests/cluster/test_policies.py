"""The network policies, where a plug-in enforces them: who reaches whom."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.bare_machine import removed
from tests.cluster.real import NAMESPACE, RealCluster

WORKER = {"progdistill/job": "probe", "progdistill/kind": "train_base"}
MAINTENANCE = {"app.kubernetes.io/component": "maintenance"}
DRIVER = {"probe": "driver"}
_PORT = 23456
_LISTEN = (
    f"import http.server; http.server.HTTPServer(('', {_PORT}), http.server.BaseHTTPRequestHandler).serve_forever()"
)
_TRY = """if True:
    import socket, sys
    for place in sys.argv[1:]:
        host, _, port = place.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            print(place)
        except OSError:
            pass
"""


class Probes:
    """A pod of each kind, which listens at a port and can try others."""

    def __init__(self, cluster: RealCluster) -> None:
        self._cluster = cluster
        kinds = {"worker": WORKER, "peer": WORKER, "driver": DRIVER, "maintenance": MAINTENANCE}
        pods = [_pod(f"probe-{name}", labels, cluster.image) for name, labels in kinds.items()]
        cluster.kubectl("create", "-f", "-", stdin="\n---\n".join(map(json.dumps, pods)))
        cluster.kubectl("wait", "--for=condition=Ready", *(f"pod/probe-{name}" for name in kinds), "--timeout=300s")
        get = ("get", "endpoints", "kubernetes", "-n", "default", "-o", "jsonpath={.subsets[0].addresses[0].ip}")
        store = urlsplit(removed["AWS_ENDPOINT_URL_S3"])
        self.places = {
            "store": f"{store.hostname}:{store.port or 443}",
            "API server": f"{cluster.kubectl(*get)}:6443",
            "cloud metadata": "169.254.169.254:80",
            **{name: f"{self._address(name)}:{_PORT}" for name in ("peer", "driver", "maintenance")},
        }

    def _address(self, name: str) -> str:
        return self._cluster.kubectl("get", "pod", f"probe-{name}", "-o", "jsonpath={.status.podIP}")

    def reached_from(self, name: str) -> set[str]:
        """The places that the pod of that kind can connect to."""
        places = [place for kind, place in self.places.items() if kind != name]
        found = self._cluster.kubectl("exec", f"probe-{name}", "--", "python", "-c", _TRY, *places).split()
        return {kind for kind, place in self.places.items() if place in found}

    def remove(self) -> None:
        """Delete the pods."""
        self._cluster.kubectl("delete", "pods", "-l", "probe", "--grace-period=1")


def _pod(name: str, labels: dict[str, str], image: str) -> dict[str, Any]:
    container = {
        "name": "probe",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", _LISTEN],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"containers": [container], "securityContext": security, "automountServiceAccountToken": False}
    metadata = {"name": name, "namespace": NAMESPACE, "labels": {"probe": "any", **labels}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {**spec, "terminationGracePeriodSeconds": 1},
    }


@pytest.fixture(scope="module")
def probes(cluster: RealCluster) -> Iterator[Probes]:
    probes = Probes(cluster)
    try:
        if {"maintenance", "driver"} <= probes.reached_from("worker"):
            pytest.skip("the network plug-in of this cluster ignores policies")
        yield probes
    finally:
        probes.remove()


@pytest.mark.parametrize(
    ("who", "reaches"), [("worker", {"store", "peer"}), ("driver", {"store", "API server"}), ("maintenance", {"store"})]
)
def test_each_kind_of_pod_reaches_what_it_needs_and_nothing_else(who: str, reaches: set[str], probes: Probes) -> None:
    assert probes.reached_from(who) == reaches
