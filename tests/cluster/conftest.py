"""Fixtures of the job tests, on the cluster that KUBECONFIG names; `make test-cluster` says with what."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from progdistill.data.dataset import DatasetInfo
from tests.bare_machine import removed
from tests.cluster.real import RealCluster, RealJob, deployed, digits_for_pods
from tests.jobs.kubernetes_jobs import finished

IMAGE, STORE = os.environ.get("TEST_CLUSTER_IMAGE"), os.environ.get("TEST_CLUSTER_STORE")
if not (IMAGE and STORE and "KUBECONFIG" in removed):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def _credentials() -> None:
    """This process and its drivers reach the store as the user does."""
    os.environ.update({name: value for name, value in removed.items() if name.startswith("AWS_")})


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, _credentials: None) -> Iterator[RealCluster]:
    assert IMAGE and STORE
    folder = tmp_path_factory.mktemp("cluster")
    os.environ["PROGDISTILL_CACHE"] = str(folder / "cache")
    with deployed(folder, Path(removed["KUBECONFIG"]), IMAGE, STORE.rstrip("/")) as running:
        yield running


@pytest.fixture(scope="session")
def cluster_digits(cluster: RealCluster, tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    return digits_for_pods(cluster, tmp_path_factory.mktemp("data"))


@pytest.fixture
def job(cluster: RealCluster, tmp_path: Path, cluster_digits: DatasetInfo) -> Iterator[RealJob]:
    one = RealJob(cluster, tmp_path, cluster_digits)
    yield one
    one.stop()


@pytest.fixture(scope="session")
def expected(cluster: RealCluster, tmp_path_factory: pytest.TempPathFactory, cluster_digits: DatasetInfo) -> str:
    """The checkpoint of an undisturbed job there: other processors may compute other weights than this one."""
    one = RealJob(cluster, tmp_path_factory.mktemp("undisturbed"), cluster_digits)
    try:
        status, checkpoint, said = finished(one.drive())
    finally:
        one.stop()
    assert status == 0, said
    return checkpoint
