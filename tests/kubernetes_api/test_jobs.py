"""The Job controller, held against "Jobs" in the Kubernetes documentation and the API reference of Job v1."""

import os
from typing import Any

from tests.kubernetes_api import Cluster
from tests.kubernetes_api.clients import Client, log_of
from tests.kubernetes_api.manifests import job
from tests.kubernetes_api.observing import conditions, finished, pods_in_phase


def test_an_indexed_job_runs_each_index_in_a_process_of_its_own(cluster: Cluster, client: Client) -> None:
    """ "Completion mode": the index is in an annotation, a label, the host name and JOB_COMPLETION_INDEX."""
    client.batch.create_namespaced_job("default", job("x", "echo $JOB_COMPLETION_INDEX $HOSTNAME", indexed=2))
    done = finished(cluster)
    assert conditions(done) == {"SuccessCriteriaMet": "CompletionsReached", "Complete": "CompletionsReached"}
    assert (done["status"]["succeeded"], done["status"]["completedIndexes"]) == (2, "0,1")
    assert "active" not in done["status"] and done["status"]["ready"] == 0
    assert done["status"]["startTime"] <= done["status"]["completionTime"]
    for pod in client.core.list_namespaced_pod(
        "default", label_selector="batch.kubernetes.io/job-name=x"
    ).items:
        index = pod.metadata.labels["batch.kubernetes.io/job-completion-index"]
        assert pod.metadata.annotations["batch.kubernetes.io/job-completion-index"] == index
        assert pod.metadata.name.startswith(f"x-{index}-") and pod.spec.hostname == f"x-{index}"
        assert log_of(client, pod.metadata.name) == f"{index} x-{index}\n"


def test_both_processes_run_at_the_same_time(cluster: Cluster, client: Client, tmp_path: Any) -> None:
    """Each opens the pipe that the other needs: one after the other would never end."""
    for name in ("0", "1"):
        os.mkfifo(tmp_path / name)
    meet = (
        f"cd {tmp_path}; if [ $JOB_COMPLETION_INDEX = 0 ]; then echo a > 0; cat 1; else cat 0; echo b > 1; fi"
    )
    client.batch.create_namespaced_job("default", job("x", meet, indexed=2))
    assert finished(cluster)["status"]["succeeded"] == 2


def test_parallelism_bounds_how_many_run(cluster: Cluster, client: Client) -> None:
    client.batch.create_namespaced_job("default", job("x", "true", indexed=5))
    assert finished(cluster)["status"]["completedIndexes"] == "0-4"
    manifest = job("y", "sleep 60", indexed=3)
    manifest["spec"]["parallelism"] = 2
    client.batch.create_namespaced_job("default", manifest)
    cluster.wait_for(lambda: len(pods_in_phase(cluster, "Running")) == 2)
    [y] = [item for item in cluster.objects("jobs") if item["metadata"]["name"] == "y"]
    assert len([pod for pod in cluster.objects("pods") if pod["metadata"]["name"].startswith("y-")]) == 2
    assert y["spec"]["completions"] == 3


def test_the_controller_tells_what_it_does_in_events(cluster: Cluster, client: Client) -> None:
    client.batch.create_namespaced_job("default", job("x", "true"))
    finished(cluster)
    cluster.wait_for(lambda: any(e["reason"] == "Completed" for e in cluster.objects("events")))
    events = client.core.list_namespaced_event("default", field_selector="involvedObject.kind=Job").items
    [pod] = cluster.objects("pods")
    told = {(event.type, event.reason, event.message) for event in events}
    assert told == {
        ("Normal", "SuccessfulCreate", f"Created pod: {pod['metadata']['name']}"),
        ("Normal", "Completed", "Job completed"),
    }


def test_a_suspended_job_runs_nothing_until_it_is_resumed(cluster: Cluster, client: Client) -> None:
    """ "Suspending a Job": startTime is reset, and the Suspended condition says which way it went."""
    client.batch.create_namespaced_job("default", job("x", "sleep 60", suspend=True))
    cluster.wait_for(lambda: conditions(cluster.objects("jobs")[0]) == {"Suspended": "JobSuspended"})
    assert cluster.objects("pods") == [] and "startTime" not in cluster.objects("jobs")[0]["status"]
    client.batch.patch_namespaced_job("x", "default", {"spec": {"suspend": False}})
    cluster.wait_for(lambda: pods_in_phase(cluster, "Running"))
    assert conditions(cluster.objects("jobs")[0]) == {}
    client.batch.patch_namespaced_job("x", "default", {"spec": {"suspend": True}})
    cluster.wait_for(lambda: cluster.objects("pods") == [])
    assert conditions(cluster.objects("jobs")[0]) == {"Suspended": "JobSuspended"}


def test_a_finished_job_goes_when_its_time_to_live_is_over(cluster: Cluster, client: Client) -> None:
    """ "Automatic Cleanup for Finished Jobs": the job is deleted cascadingly."""
    client.batch.create_namespaced_job("default", job("x", "true", ttlSecondsAfterFinished=0))
    cluster.wait_for(lambda: cluster.objects("events") and not cluster.objects("jobs"))
    cluster.wait_for(lambda: not cluster.objects("pods"))


def test_a_deadline_ends_the_job(cluster: Cluster, client: Client) -> None:
    """ "Job termination and cleanup": all running pods are terminated, reason DeadlineExceeded."""
    client.batch.create_namespaced_job("default", job("x", "sleep 60", activeDeadlineSeconds=1))
    done = finished(cluster)
    assert conditions(done) == {"FailureTarget": "DeadlineExceeded", "Failed": "DeadlineExceeded"}
    cluster.wait_for(lambda: not cluster.objects("pods"))
