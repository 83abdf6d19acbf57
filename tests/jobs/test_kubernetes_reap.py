"""Jobs of ended workflows are deleted, and nothing else."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from progdistill.config.cluster import ClusterSettings
from progdistill.jobs.kubernetes.api import ClusterApi, connect
from progdistill.jobs.kubernetes.reap import main, reap
from tests.infra.tools import of_kind
from tests.jobs.kubernetes_jobs import cluster
from tests.kubernetes_api import Cluster
from tests.kubernetes_api.helpers import job, service
from tests.kubernetes_api.objects import JOBS, SERVICES, WORKFLOWS, named

__all__ = ["cluster"]

LABELS = {"app.kubernetes.io/managed-by": "progdistill"}
AT_ONCE = timedelta(seconds=-2)
"""Kubernetes' times are in whole seconds."""


@pytest.fixture
def api(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterApi]:
    """A connection that may do what the reaper's Role allows."""
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    (role,) = [one for one in of_kind("base", "Role") if one["metadata"]["name"] == "progdistill-reaper"]
    rules: dict[str, set[str]] = {}
    for rule in role["rules"]:
        for resource in rule["resources"]:
            rules[named(resource).qualified] = set(rule["verbs"])
    cluster.allow_only(rules)
    connected = connect(ClusterSettings())
    yield connected
    connected.closed.set()


def left(cluster: Cluster, name: str, created_by: str, **changes: Any) -> None:
    """A Job whose pods wait for ever."""
    manifest = job(name, "sleep 600", suspend=True)
    metadata = {"namespace": "default", "labels": LABELS, "annotations": {"progdistill/created-by": created_by}}
    manifest["metadata"] |= metadata
    manifest["status"] = changes
    cluster.storage.create(JOBS, manifest)


def workflow(cluster: Cluster, name: str, **status: str) -> None:
    metadata = {"name": name, "namespace": "default"}
    cluster.storage.create(WORKFLOWS, {"kind": "Workflow", "metadata": metadata, "status": status})


def test_jobs_of_ended_workflows_are_deleted_and_those_of_running_ones_and_of_people_stay(
    cluster: Cluster, api: ClusterApi
) -> None:
    workflow(cluster, "terminated", phase="Failed", finishedAt="2026-01-01T00:00:00Z")
    workflow(cluster, "running", phase="Running")
    workflow(cluster, "just-now", phase="Failed", finishedAt="2999-01-01T00:00:00Z")
    for name in ("terminated", "running", "just-now", "gone"):
        left(cluster, name, f"DistillFlow/argo-{name}")
    left(cluster, "laptop", "DistillFlow/1700000000")
    failed = [{"type": "Failed", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]
    left(cluster, "failed", "DistillFlow/argo-terminated", conditions=failed)
    reap(api, timedelta(hours=1))
    assert len(cluster.objects("jobs")) == 6, "all are younger than that"
    assert sorted(path.rpartition("/")[2] for path in reap(api, AT_ONCE)) == ["gone", "terminated"]
    cluster.wait_for(lambda: len(cluster.objects("jobs")) == 4)


def test_a_service_that_never_got_a_job_goes_too(cluster: Cluster, api: ClusterApi) -> None:
    for name, labels in (("ours", LABELS), ("another", {})):
        manifest = service(name, labels)
        manifest["metadata"]["namespace"] = "default"
        cluster.storage.create(SERVICES, {"apiVersion": "v1", "kind": "Service", **manifest})
    reap(api, AT_ONCE)
    cluster.wait_for(lambda: [one["metadata"]["name"] for one in cluster.objects("services")] == ["another"])


def test_a_missing_permission_is_an_error_of_the_cronjob(
    cluster: Cluster, api: ClusterApi, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.allow_only({})
    assert main([]) == 2
    assert 'cannot list resource "jobs"' in caplog.text
