"""A cluster for each test, and a client for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes_api import Cluster, running_cluster
from tests.kubernetes_api.helpers import Client, client_of


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path / "cluster") as running:
        yield running


@pytest.fixture
def client(cluster: Cluster) -> Client:
    return client_of(cluster)
