"""The real client, set up for a cluster."""

from dataclasses import dataclass
from typing import Any

import kubernetes

from tests.kubernetes_api import Cluster


@dataclass
class Client:
    """The real client's API classes for one cluster."""

    batch: Any
    core: Any
    custom: Any
    authorization: Any


def client_of(cluster: Cluster) -> Client:
    """A client configured by the cluster's kubeconfig."""
    api = kubernetes.config.new_client_from_config(config_file=str(cluster.kubeconfig))
    return Client(
        kubernetes.client.BatchV1Api(api),
        kubernetes.client.CoreV1Api(api),
        kubernetes.client.CustomObjectsApi(api),
        kubernetes.client.AuthorizationV1Api(api),
    )


def log_of(client: Client, pod: str, **options: Any) -> str:
    """A pod's log as text. The client decodes no text itself since 36.0 (kubernetes-client/python #2596)."""
    answer = client.core.read_namespaced_pod_log(pod, "default", _preload_content=False, **options)
    return bytes(answer.data).decode()
