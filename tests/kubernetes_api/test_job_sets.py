"""JobSets, held against the JobSet documentation (jobset.sigs.k8s.io, "Concepts")."""

from typing import Any

from tests.kubernetes_api import Cluster
from tests.kubernetes_api.clients import Client, log_of
from tests.kubernetes_api.conditions import condition
from tests.kubernetes_api.manifests import job
from tests.kubernetes_api.observing import pods_in_phase
from tests.kubernetes_api.refusals import refusal

_PLACE = ("jobset.x-k8s.io", "v1alpha2", "default", "jobsets")


def _job_set(command: str, **spec: Any) -> dict[str, Any]:
    env = [{"name": "MASTER", "value": "train-workers-0-0.train:29500"}]
    template = job("unnamed", command, indexed=2, backoffLimit=0, pod={"container": {"env": env}})
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": "train"},
        "spec": {
            "replicatedJobs": [{"name": "workers", "replicas": 1, "template": {"spec": template["spec"]}}],
            **spec,
        },
    }


def _status(cluster: Cluster, kind: str) -> Any:
    return cluster.wait_for(lambda: condition(cluster.objects("jobsets")[0], kind) or None)


def test_a_job_set_makes_its_jobs_and_completes_with_them(cluster: Cluster, client: Client) -> None:
    client.custom.create_namespaced_custom_object(*_PLACE, _job_set("echo $MASTER"))
    assert _status(cluster, "Completed")["reason"] == "AllJobsCompleted"
    [made] = cluster.objects("jobs")
    assert made["metadata"]["name"] == "train-workers-0"
    [service] = cluster.objects("services")
    assert (service["metadata"]["name"], service["spec"]["clusterIP"]) == ("train", "None")
    pods = client.core.list_namespaced_pod(
        "default", label_selector="jobset.sigs.k8s.io/jobset-name=train"
    ).items
    assert [log_of(client, pod.metadata.name) for pod in pods] == ["127.0.0.1:29500\n"] * 2


def test_a_failed_job_fails_its_job_set(cluster: Cluster, client: Client) -> None:
    client.custom.create_namespaced_custom_object(*_PLACE, _job_set("exit 1"))
    assert _status(cluster, "Failed")["reason"] == "FailedJobs"


def test_a_failed_job_restarts_the_whole_set(cluster: Cluster, client: Client, tmp_path: Any) -> None:
    """ "Failure policy": maxRestarts."""
    command = f"mkdir {tmp_path}/$JOB_COMPLETION_INDEX && exit 1; exit 0"
    client.custom.create_namespaced_custom_object(
        *_PLACE, _job_set(command, failurePolicy={"maxRestarts": 2})
    )
    _status(cluster, "Completed")
    assert cluster.objects("jobsets")[0]["status"]["restarts"] in (1, 2)


def test_restarts_are_bounded(cluster: Cluster, client: Client) -> None:
    client.custom.create_namespaced_custom_object(
        *_PLACE, _job_set("exit 1", failurePolicy={"maxRestarts": 1})
    )
    failed = _status(cluster, "Failed")
    assert failed["reason"] == "ReachedMaxRestarts"
    assert failed["message"] == (
        "jobset failed due to reaching max number of restarts (first failed job: train-workers-0)"
    )
    assert cluster.objects("jobsets")[0]["status"]["restartsCountTowardsMax"] == 1


def test_a_rule_fails_the_set_for_the_reason_of_the_job(cluster: Cluster, client: Client) -> None:
    """ "Failure policy", "Rules": FailJobSet comes before any restart."""
    manifest = _job_set("exit 2")
    job_spec = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    codes = {"operator": "In", "values": [2]}
    job_spec["podFailurePolicy"] = {"rules": [{"action": "FailJob", "onExitCodes": codes}]}
    rule = {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    manifest["spec"]["failurePolicy"] = {"maxRestarts": 5, "rules": [rule]}
    client.custom.create_namespaced_custom_object(*_PLACE, manifest)
    assert _status(cluster, "Failed")["reason"] == "FailJobSetFailurePolicyAction"
    assert cluster.objects("jobsets")[0]["status"].get("restarts", 0) == 0


def test_its_jobs_and_pods_go_with_the_job_set(cluster: Cluster, client: Client) -> None:
    client.custom.create_namespaced_custom_object(*_PLACE, _job_set("exec sleep 60"))
    cluster.wait_for(lambda: len(pods_in_phase(cluster, "Running")) == 2)
    client.custom.delete_namespaced_custom_object(*_PLACE, "train")
    cluster.wait_for(lambda: not cluster.objects("jobs") and not cluster.objects("pods"))
    cluster.wait_for(lambda: not cluster.objects("services"))


def test_a_broken_template_is_refused(client: Client) -> None:
    broken = _job_set("true")
    broken["spec"]["replicatedJobs"][0]["template"]["spec"]["completionMode"] = "Sideways"
    status = refusal(lambda: client.custom.create_namespaced_custom_object(*_PLACE, broken))
    assert (status["code"], status["reason"]) == (422, "Invalid")
