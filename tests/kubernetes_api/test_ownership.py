"""Deletion, held against "Garbage Collection" ("Cascading deletion") and "Owners and Dependents"."""

import os
from typing import Any

import pytest

from tests.kubernetes_api import Cluster
from tests.kubernetes_api.clients import Client
from tests.kubernetes_api.manifests import config_map, job
from tests.kubernetes_api.observing import pods_in_phase
from tests.kubernetes_api.refusals import refusal

_ENDING = {"terminationGracePeriodSeconds": 60}


def _running_job(cluster: Cluster, client: Client, command: str = "exec sleep 60") -> Any:
    created = client.batch.create_namespaced_job("default", job("x", command, pod=dict(_ENDING)))
    cluster.wait_for(lambda: pods_in_phase(cluster, "Running"))
    return created


def test_background_deletes_the_job_at_once_and_its_pods_after(cluster: Cluster, client: Client) -> None:
    owner = _running_job(cluster, client)
    client.core.create_namespaced_config_map("default", config_map("owned", owner=owner))
    answer = client.batch.delete_namespaced_job("x", "default", propagation_policy="Background")
    assert (answer.status, answer.details.uid) == ("Success", owner.metadata.uid)
    assert refusal(lambda: client.batch.read_namespaced_job("x", "default"))["code"] == 404
    cluster.wait_for(lambda: not cluster.objects("pods"))
    cluster.wait_for(lambda: not client.core.list_namespaced_config_map("default").items)


def test_foreground_keeps_the_job_until_its_pods_are_gone(
    cluster: Cluster, client: Client, tmp_path: Any
) -> None:
    os.mkfifo(tmp_path / "go")
    command = f"trap 'cat {tmp_path}/go; exit 1' TERM; touch {tmp_path}/up; while :; do sleep 0.05; done"
    _running_job(cluster, client, command)
    cluster.wait_for((tmp_path / "up").exists)
    client.batch.delete_namespaced_job("x", "default", propagation_policy="Foreground")
    left = client.batch.read_namespaced_job("x", "default").metadata
    assert left.deletion_timestamp and left.finalizers == ["foregroundDeletion"]
    cluster.wait_for(lambda: cluster.objects("pods")[0]["metadata"].get("deletionTimestamp"))
    status = refusal(lambda: client.batch.create_namespaced_job("default", job("x", "true")))
    assert status["message"] == 'object is being deleted: jobs.batch "x" already exists'
    (tmp_path / "go").write_text("")
    cluster.wait_for(lambda: not cluster.objects("jobs") and not cluster.objects("pods"))


@pytest.mark.parametrize("policy", ["Orphan", None])
def test_a_job_deleted_without_a_policy_leaves_its_pods(
    cluster: Cluster, client: Client, policy: Any
) -> None:
    """batch/v1 orphans by default (registry/batch/job/strategy.go); kubectl asks for Background."""
    _running_job(cluster, client)
    options = {"propagation_policy": policy} if policy else {}
    client.batch.delete_namespaced_job("x", "default", **options)
    cluster.wait_for(lambda: not cluster.objects("jobs"))
    [pod] = cluster.objects("pods")
    assert "ownerReferences" not in pod["metadata"] and pod["status"]["phase"] == "Running"


def test_an_object_of_a_missing_owner_is_collected(cluster: Cluster, client: Client) -> None:
    owner = client.batch.create_namespaced_job("default", job("x", "true", suspend=True))
    client.batch.delete_namespaced_job("x", "default", propagation_policy="Background")
    client.core.create_namespaced_config_map("default", config_map("late", owner=owner))
    cluster.wait_for(lambda: not client.core.list_namespaced_config_map("default").items)


def test_a_delete_with_another_uid_is_refused(cluster: Cluster, client: Client) -> None:
    """ "Preconditions": what was meant may have been replaced by another of its name."""
    client.batch.create_namespaced_job("default", job("x", "true", suspend=True))
    body = {"preconditions": {"uid": "another"}}
    status = refusal(lambda: client.batch.delete_namespaced_job("x", "default", body=body))
    assert (status["code"], status["reason"]) == (409, "Conflict")
    assert "Precondition failed: UID in precondition: another, UID in object meta: " in status["message"]
