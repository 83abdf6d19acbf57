"""What the namespace admits, and what its service accounts may do: the API server's own answers to dry runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from progdistill.config.cluster import ClusterSettings
from progdistill.jobs.kubernetes.api import connect
from progdistill.jobs.kubernetes.dry_run import Findings, findings
from progdistill.jobs.kubernetes.manifest import job_manifest
from progdistill.jobs.kubernetes.preflight import missing_permissions
from tests.cluster.argo import argo_command
from tests.cluster.real import NAMESPACE, RealCluster, RealJob, kubectl
from tests.infra.tools import quantity
from tests.schedules.conftest import pods_of, templates_of

DRY_RUN = ("create", "--dry-run=server", "-f", "-")


def test_a_driver_has_the_permissions_that_a_run_needs(job: RealJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(job.cluster.kubeconfig))
    assert missing_permissions(connect(job.settings)) == []


@pytest.mark.parametrize(
    "wish", ["create pods", "get secrets", "create pods/exec", "delete pods", "create rolebindings", "get nodes"]
)
def test_a_driver_may_do_nothing_else(wish: str, cluster: RealCluster) -> None:
    assert kubectl(cluster.kubeconfig, "auth", "can-i", *wish.split(), check=False).strip().startswith("no")


@pytest.mark.parametrize("account", ["progdistill-worker", "progdistill-maintenance"])
def test_other_accounts_may_do_nothing(account: str, cluster: RealCluster) -> None:
    kubeconfig = cluster.account(account)
    for wish in ("create jobs", "list pods", "get secrets"):
        assert kubectl(kubeconfig, "auth", "can-i", *wish.split(), check=False).strip().startswith("no")


def test_the_launchers_pod_is_admitted_and_gets_no_limits_but_its_own(job: RealJob) -> None:
    template = job_manifest(job.submission)["spec"]["template"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x", **template["metadata"]},
        "spec": template["spec"],
    }
    admitted = json.loads(job.cluster.kubectl(*DRY_RUN, "-o", "json", stdin=json.dumps(pod)))
    [got], [asked] = ([one["resources"] for one in item["spec"]["containers"]] for item in (admitted, pod))
    for kind in ("limits", "requests"):
        assert {name: quantity(value) for name, value in got[kind].items()} == {
            name: quantity(value) for name, value in asked[kind].items()
        }


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"serviceAccountName": "progdistill-maintenance"}, "service account progdistill-worker only"),
        ({"volumes": [{"name": "s", "secret": {"secretName": "progdistill-s3"}}]}, "mount no Secrets"),
    ],
)
def test_a_driver_cannot_borrow_rights_through_a_job(change: dict[str, Any], refusal: str, job: RealJob) -> None:
    manifest = job_manifest(job.submission)
    spec = manifest["spec"]["template"]["spec"]
    spec.update({**change, "volumes": [*spec["volumes"], *change.get("volumes", [])]})
    assert refusal in kubectl(job.cluster.kubeconfig, *DRY_RUN, stdin=json.dumps(manifest), check=False)


def test_a_run_that_would_be_admitted_has_no_findings(job: RealJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(job.cluster.administrator))
    assert findings(connect(job.settings), job.settings, job.store.uri) == Findings((), ())
    monkeypatch.setenv("KUBECONFIG", str(job.cluster.kubeconfig))
    assert findings(connect(job.settings), job.settings, job.store.uri).refusals == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"env_from_secrets": ["nowhere"]}, "nowhere is not among the secrets"),
        ({"service_account": "nobody"}, "nobody is not among the serviceaccounts"),
        ({"volumes": {"nothing": "/x"}}, "nothing is not among the persistentvolumeclaims"),
        ({"train": {"priority_class": "none"}}, "none is not among the priorityclasses"),
        ({"train": {"cpu": 1000}}, "exceeded quota: progdistill"),
        ({"train": {"security_context": {"capabilities": {"add": ["IPC_LOCK"]}}}}, "violates PodSecurity"),
    ],
)
def test_what_the_cluster_would_refuse_is_found_before_the_run(
    change: dict[str, Any], words: str, job: RealJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(job.cluster.administrator))
    settings = ClusterSettings.model_validate({**job.settings.model_dump(), **change})
    assert words in "; ".join(findings(connect(settings), settings, job.store.uri).refusals)


def test_every_pod_of_a_schedule_is_admitted_and_one_that_asks_for_more_is_not(
    cluster: RealCluster, tmp_path: Path
) -> None:
    """The limits of the namespace, its security level and the template together."""
    printed = argo_command(cluster, tmp_path, "create", "--only-json")
    template = json.loads(printed[printed.index("{") :])
    assert len(pods_of(template)) >= 8
    for name, one in templates_of(template).items():
        if "container" not in one:
            continue
        container = {key: one["container"][key] for key in ("image", "resources", "securityContext")}
        pod = _pod({"name": "main", **container}, template["spec"]["podPriorityClassName"])
        cluster.kubectl(*DRY_RUN, stdin=json.dumps(pod))
        pod["spec"]["containers"][0]["securityContext"] = {}
        assert "violates PodSecurity" in cluster.kubectl(*DRY_RUN, stdin=json.dumps(pod), check=False), name


def _pod(container: dict[str, Any], priority_class: str) -> dict[str, Any]:
    spec = {"serviceAccountName": "progdistill-driver", "containers": [container], "restartPolicy": "Never"}
    spec["priorityClassName"] = priority_class
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "step-", "namespace": NAMESPACE},
        "spec": spec,
    }
