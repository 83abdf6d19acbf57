"""Settings that pods cannot use, or that the cluster does not allow, are refused before anything starts."""

import shutil
from pathlib import Path

import pytest

from progdistill.cli.main import doctor
from progdistill.config.options import RunOptions
from progdistill.config.settings import settings_from
from progdistill.data.dataset import DatasetInfo
from progdistill.errors import UsageError
from progdistill.jobs.kubernetes.api import REQUIRED_PERMISSIONS
from progdistill.jobs.kubernetes.preflight import require_reachable
from progdistill.run.prepare import PreparedRun, prepare_run
from tests.jobs.kubernetes_jobs import IMAGE, cluster, cluster_digits, create
from tests.kubernetes_api import Cluster
from tests.kubernetes_api.objects import named
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


def test_a_store_in_a_folder_is_refused_unless_a_volume_has_it(tmp_path: Path, cluster: Cluster) -> None:
    with pytest.raises(UsageError, match="--store s3://"):
        prepared(str(tmp_path / "store"))
    mounted = f'cluster.volumes={{"shared": "{tmp_path}"}}'
    with pytest.raises(UsageError, match="cluster.volumes: shared is not among the persistentvolumeclaims of"):
        prepared(str(tmp_path / "store"), mounted)
    create(cluster, "persistentvolumeclaims", {"metadata": {"name": "shared"}, "spec": {}})
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


def checked(*settings: str) -> None:
    """What a run does first on a cluster; no store is opened for it."""
    changes = (f"cluster.image={IMAGE}", *settings)
    cluster = settings_from(RunOptions(launcher="kubernetes", set=changes)).cluster
    require_reachable(cluster, "s3://bucket/models", None)


NAMES = {
    "cluster.env_from_secrets": ("secrets", "store-keys"),
    "cluster.image_pull_secrets": ("secrets", "registry"),
    "cluster.service_account": ("serviceaccounts", "worker"),
    "cluster.train.priority_class": ("priorityclasses", "urgent"),
    "cluster.train.queue": ("localqueues", "research"),
}


@pytest.mark.parametrize("setting", NAMES)
def test_what_is_missing_is_named_before_the_run(setting: str, cluster: Cluster) -> None:
    resource, name = NAMES[setting]
    value = f'["{name}"]' if resource == "secrets" else name
    with pytest.raises(UsageError, match=f"{setting}: {name} is not among the {resource} of"):
        checked(f"{setting}={value}")
    kind = named(resource)
    metadata = {"name": name, "namespace": "default"} if kind.namespaced else {"name": name}
    cluster.storage.create(kind, {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata})
    checked(f"{setting}={value}")
    assert not any(cluster.objects(plural) for plural in ("jobs", "pods", "services"))


def test_a_missing_namespace_is_named_alone() -> None:
    with pytest.raises(UsageError, match="create the namespace elsewhere") as caught:
        checked("cluster.namespace=elsewhere", "cluster.service_account=worker")
    assert "serviceaccounts" not in str(caught.value)


@pytest.mark.parametrize(
    ("refusal", "refused"),
    [
        ('violates PodSecurity "restricted:latest": seccompProfile', True),
        ("exceeded quota: small, requested: cpu=2,pods=1, used: cpu=0, limited: cpu=1", True),
        ("exceeded quota: busy, requested: cpu=2, used: cpu=63, limited: cpu=64", False),
    ],
)
def test_what_admission_says_in_a_dry_run_is_passed_on(refusal: str, refused: bool, cluster: Cluster) -> None:
    cluster.refuse_pods(refusal)
    if not refused:
        checked()  # it waits until others are done
        return
    with pytest.raises(UsageError) as caught:
        checked()
    assert refusal in str(caught.value) and "Bind a Role" not in str(caught.value)


def test_without_the_permission_to_look_the_run_starts_and_the_doctor_says_what_is_unchecked(
    cluster: Cluster, tmp_path: Path
) -> None:
    rules: dict[str, set[str]] = {}
    for permission in REQUIRED_PERMISSIONS:
        resource, _, sub = permission.resource.partition("/")
        name = resource + (f".{permission.group}" if permission.group else "") + (f"/{sub}" if sub else "")
        rules.setdefault(name, set()).add(permission.verb)
    cluster.allow_only(rules)
    settings = f'"cluster.image" = "{IMAGE}"\n"cluster.env_from_secrets" = ["store-keys"]\n'
    (tmp_path / "progdistill.toml").write_text(
        f'launcher = "kubernetes"\nstore = "s3://bucket/models"\n[set]\n{settings}'
    )
    checked('cluster.env_from_secrets=["store-keys"]')
    facts = doctor.cluster_facts()
    assert facts["jobs"] == doctor.ACCEPTED
    assert facts["not checked, for lack of permission"] == "pods in a dry run (create pods), secrets (get secrets)"


def test_where_no_cluster_is_meant_the_doctor_misses_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "none is needed" in doctor.cluster_facts()["reachable"]
    assert doctor.cluster_facts("kubernetes")["reachable"].startswith("no: ")


def test_the_doctor_looks_at_the_cluster(cluster: Cluster) -> None:
    assert doctor.cluster_facts()["reachable"] == f"yes, {cluster.url}, namespace default"
    cluster.allow_only({})
    assert "create jobs.batch" in doctor.cluster_facts()["permissions"]
    cluster.stop_answering()
    assert doctor.cluster_facts()["reachable"].startswith("no: ")
    cluster.answer_again()
