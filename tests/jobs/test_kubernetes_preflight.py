"""Settings that pods cannot use, or that the cluster does not allow, are refused before anything starts."""

import shutil
from pathlib import Path

import pytest

from progdistill.cli.main import doctor
from progdistill.config.options import RunOptions
from progdistill.data.dataset import DatasetInfo
from progdistill.errors import UsageError
from progdistill.jobs.kubernetes.api import REQUIRED_PERMISSIONS
from progdistill.run.prepare import PreparedRun, prepare_run
from tests.jobs.kubernetes_jobs import IMAGE, cluster, cluster_digits
from tests.kubernetes_api import Cluster
from tests.store.s3_server import s3_endpoint, s3_uri

__all__ = ["cluster", "cluster_digits", "s3_endpoint", "s3_uri"]


@pytest.fixture(autouse=True)
def _reach(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    monkeypatch.setenv("PROGDISTILL_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


def prepared(store: str, *settings: str, image: str = IMAGE, dataset: str | None = None) -> PreparedRun:
    changes = (f"cluster.image={image}",) if image else ()
    return prepare_run(RunOptions(launcher="kubernetes", store=store, dataset=dataset, set=(*changes, *settings)))


def test_the_embedded_digits_are_put_where_pods_reach_them(s3_uri: str, cluster_digits: DatasetInfo) -> None:
    run = prepared(s3_uri)
    assert run.dataset.location == f"{s3_uri}/datasets/digits"
    assert run.dataset.fingerprint == cluster_digits.fingerprint
    assert prepared(s3_uri).dataset == run.dataset


def test_a_store_in_a_folder_is_refused_unless_a_volume_has_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--store s3://"):
        prepared(str(tmp_path / "store"))
    mounted = f'cluster.volumes={{"shared": "{tmp_path}"}}'
    run = prepared(str(tmp_path / "store"), mounted)
    assert run.dataset.location == str(tmp_path / "data" / "digits")


def test_a_dataset_in_a_folder_is_refused_with_the_command_that_puts_it_into_a_bucket(
    s3_uri: str, cluster_digits: DatasetInfo, tmp_path: Path
) -> None:
    folder = tmp_path / "mine" / "digits"
    shutil.copytree(cluster_digits.location, folder)
    with pytest.raises(UsageError, match=r"progdistill data prepare digits .* --out s3://"):
        prepared(s3_uri, dataset=str(folder))


def test_an_image_is_required(s3_uri: str) -> None:
    with pytest.raises(UsageError, match="--set cluster.image="):
        prepared(s3_uri, image="")


def test_ranks_come_from_hosts(s3_uri: str) -> None:
    with pytest.raises(UsageError, match="cluster.train.hosts"):
        prepared(s3_uri, "compute.world_size=2")


def test_without_any_cluster_both_ways_to_one_are_said(
    s3_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(UsageError, match=r"KUBECONFIG[\s\S]*service account"):
        prepared(s3_uri)


def test_missing_permissions_are_named_with_their_rules(s3_uri: str, cluster: Cluster) -> None:
    cluster.allow_only({"jobs.batch": {"create", "delete", "get", "list", "watch"}})
    with pytest.raises(UsageError) as caught:
        prepared(s3_uri)
    for permission in REQUIRED_PERMISSIONS:
        rule = f'resources: ["{permission.resource}"], verbs: ["{permission.verb}"]'
        assert (rule in str(caught.value)) == (permission.group != "batch")


def test_the_doctor_looks_at_the_cluster(cluster: Cluster) -> None:
    assert doctor.cluster_facts()["reachable"] == f"yes, {cluster.url}, namespace default"
    cluster.allow_only({})
    assert "create jobs.batch" in doctor.cluster_facts()["permissions"]
    cluster.stop_answering()
    assert doctor.cluster_facts()["reachable"].startswith("no: ")
    cluster.answer_again()
