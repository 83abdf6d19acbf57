"""Clusters, and clients that talk to them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes
import pytest

from tests.kubernetes_api import Cluster, running_cluster


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


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path / "cluster") as running:
        yield running


@pytest.fixture
def client(cluster: Cluster) -> Client:
    return client_of(cluster)
