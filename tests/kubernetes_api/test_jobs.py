"""The Job controller, against "Jobs" in the Kubernetes documentation and the API reference of Job v1."""

import os
import time
from pathlib import Path
from typing import Any

from tests.kubernetes_api import Cluster, Node, running_cluster
from tests.kubernetes_api.helpers import Client, client_of, conditions, finished, in_phase, job, log_of, running
from tests.kubernetes_api.jobs import read_indexes, written_indexes
from tests.kubernetes_api.objects import condition

_IGNORE_DISRUPTION = {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]}


def _on_codes(action: str, operator: str, *values: int) -> dict[str, Any]:
    codes = {"containerName": "main", "operator": operator, "values": list(values)}
    return {"rules": [{"action": action, "onExitCodes": codes}]}


def _replacement(cluster: Cluster, first: Any) -> Any:
    def look() -> Any:
        pods = in_phase(cluster, "Running")
        return [pod for pod in pods if pod["metadata"]["uid"] != first["metadata"]["uid"]]

    return cluster.wait_for(look)[0]


def test_each_index_runs_in_a_process_of_its_own_at_the_same_time(
    cluster: Cluster, client: Client, tmp_path: Path
) -> None:
    """ "Completion mode": the index is in an annotation, a label, the host name and JOB_COMPLETION_INDEX."""
    for name in ("0", "1"):
        os.mkfifo(tmp_path / name)
    # Each opens the pipe that the other needs: one after the other would never end.
    meet = f"cd {tmp_path}; if [ $JOB_COMPLETION_INDEX = 0 ]; then echo a > 0; cat 1; else cat 0; echo a > 1; fi"
    command = f"{meet}; echo $JOB_COMPLETION_INDEX $HOSTNAME"
    client.batch.create_namespaced_job("default", job("x", command, hosts=2))
    done = finished(cluster)
    assert conditions(done) == {"SuccessCriteriaMet": "CompletionsReached", "Complete": "CompletionsReached"}
    assert (done["status"]["succeeded"], done["status"]["completedIndexes"]) == (2, "0,1")
    assert "active" not in done["status"] and done["status"]["startTime"] <= done["status"]["completionTime"]
    pods = client.core.list_namespaced_pod("default", label_selector="batch.kubernetes.io/job-name=x").items
    for pod in pods:
        index = pod.metadata.labels["batch.kubernetes.io/job-completion-index"]
        assert pod.metadata.annotations["batch.kubernetes.io/job-completion-index"] == index
        assert pod.metadata.name.startswith(f"x-{index}-") and pod.spec.hostname == f"x-{index}"
        assert log_of(client, pod.metadata.name).splitlines()[-1] == f"{index} x-{index}"


def test_a_status_lists_indexes_as_ranges() -> None:
    assert written_indexes({0, 1, 3, 5, 6, 7}) == "0,1,3,5-7"
    assert read_indexes("0,1,3,5-7") == {0, 1, 3, 5, 6, 7}


def test_a_suspended_job_has_no_pods(cluster: Cluster, client: Client) -> None:
    client.batch.create_namespaced_job("default", job("x", "sleep 60", suspend=True))
    cluster.wait_for(lambda: conditions(cluster.objects("jobs")[0]) == {"Suspended": "JobSuspended"})
    assert cluster.objects("pods") == [] and "startTime" not in cluster.objects("jobs")[0]["status"]


def test_a_finished_job_goes_when_its_time_to_live_is_over(cluster: Cluster, client: Client) -> None:
    """ "Automatic Cleanup for Finished Jobs": the job is deleted cascadingly."""
    client.batch.create_namespaced_job("default", job("x", "true", ttlSecondsAfterFinished=0))
    cluster.wait_for(lambda: not cluster.objects("jobs") and not cluster.objects("pods"))


def test_a_deadline_ends_the_job(cluster: Cluster, client: Client) -> None:
    """ "Job termination and cleanup": all running pods are terminated, reason DeadlineExceeded."""
    client.batch.create_namespaced_job("default", job("x", "sleep 60", activeDeadlineSeconds=1))
    assert conditions(finished(cluster)) == {"FailureTarget": "DeadlineExceeded", "Failed": "DeadlineExceeded"}
    cluster.wait_for(lambda: not cluster.objects("pods"))


def test_too_many_failures_end_the_job_and_its_other_pods(cluster: Cluster, client: Client) -> None:
    """backoffLimit 1: the first failure is retried, the second is one too many."""
    command = "if [ $JOB_COMPLETION_INDEX = 1 ]; then exit 3; fi; exec sleep 60"
    client.batch.create_namespaced_job("default", job("x", command, hosts=2, backoffLimit=1))
    done = finished(cluster)
    assert conditions(done) == {"FailureTarget": "BackoffLimitExceeded", "Failed": "BackoffLimitExceeded"}
    assert done["status"]["failed"] >= 2 and done["status"]["terminating"] == 0
    assert done["status"]["conditions"][-1]["message"] == "Job has reached the specified backoff limit"
    assert in_phase(cluster, "Running") == [] and len(in_phase(cluster, "Failed")) >= 2
    cluster.wait_for(lambda: [e for e in cluster.objects("events") if e["reason"] == "BackoffLimitExceeded"])


def test_failjob_ends_the_job_at_the_first_such_exit_code(cluster: Cluster, client: Client) -> None:
    policy = _on_codes("FailJob", "In", 2, 42)
    client.batch.create_namespaced_job("default", job("x", "exit 42", podFailurePolicy=policy))
    done = finished(cluster)
    assert conditions(done) == {"FailureTarget": "PodFailurePolicy", "Failed": "PodFailurePolicy"}
    [pod] = cluster.objects("pods")
    assert done["status"]["conditions"][-1]["message"] == (
        f"Container main for pod default/{pod['metadata']['name']} failed with exit code 42"
        " matching FailJob rule at index 0"
    )


def test_other_exit_codes_count_against_the_limit(cluster: Cluster, client: Client) -> None:
    policy = _on_codes("FailJob", "In", 42)
    client.batch.create_namespaced_job("default", job("x", "exit 1", backoffLimit=0, podFailurePolicy=policy))
    assert conditions(finished(cluster))["Failed"] == "BackoffLimitExceeded"


def test_ignored_exit_codes_do_not_count_but_back_off(tmp_path: Path) -> None:
    """kubernetes#130881: every ended pod doubles the delay of its replacement, ignored ones too."""
    command = f"echo >> {tmp_path}/runs; test $(wc -l < {tmp_path}/runs) -gt 3 || exit 75"
    manifest = job("x", command, backoffLimit=0, podFailurePolicy=_on_codes("Ignore", "In", 75))
    began = time.monotonic()
    with running_cluster(tmp_path / "cluster", backoff_seconds=0.2) as cluster:
        client_of(cluster).batch.create_namespaced_job("default", manifest)
        done = finished(cluster)
    assert time.monotonic() - began >= 0.2 + 0.4 + 0.8
    assert conditions(done)["Complete"] == "CompletionsReached"
    assert done["status"].get("failed", 0) == 0 and done["status"]["succeeded"] == 1


def test_an_ignored_eviction_does_not_count_and_the_pod_is_replaced(cluster: Cluster, client: Client) -> None:
    """ "Pod disruption conditions": a preempted pod has DisruptionTarget, which the rule ignores."""
    manifest = job("x", "exec sleep 60", backoffLimit=0, podFailurePolicy=_IGNORE_DISRUPTION)
    client.batch.create_namespaced_job("default", manifest)
    first = running(cluster)
    cluster.evict(first, reason="PreemptionByScheduler")
    assert _replacement(cluster, first)["spec"]["hostname"] == "x-0"
    assert cluster.objects("jobs")[0]["status"].get("failed", 0) == 0


def test_an_eviction_counts_without_that_rule(cluster: Cluster, client: Client) -> None:
    client.batch.create_namespaced_job("default", job("x", "exec sleep 60", backoffLimit=0))
    cluster.evict(running(cluster))
    assert conditions(finished(cluster))["Failed"] == "BackoffLimitExceeded"


def test_a_pod_that_its_node_evicts_fails_whatever_it_exits_with(cluster: Cluster, client: Client) -> None:
    """ "Node-pressure Eviction": the phase is Failed and the reason Evicted."""
    command = "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done"
    client.batch.create_namespaced_job("default", job("x", command, backoffLimit=0))
    pod = running(cluster)
    cluster.wait_for(lambda: log_of(client, pod["metadata"]["name"]) == "up\n")
    cluster.evict(pod, reason="TerminationByKubelet")
    [failed] = cluster.wait_for(lambda: in_phase(cluster, "Failed"))
    assert failed["status"]["reason"] == "Evicted"
    assert condition(failed, "DisruptionTarget")["reason"] == "TerminationByKubelet"


def test_a_terminating_pod_is_replaced_when_it_has_ended(cluster: Cluster, client: Client, tmp_path: Path) -> None:
    """podReplacementPolicy Failed: wait until the terminating pod "is fully terminated"."""
    command = f"trap 'echo stopping; cat {tmp_path}/go; exit 1' TERM; echo up; while :; do sleep 0.05; done"
    os.mkfifo(tmp_path / "go")
    client.batch.create_namespaced_job("default", job("x", command, podReplacementPolicy="Failed"))
    first = running(cluster)
    name = first["metadata"]["name"]
    lines = client.core.read_namespaced_pod_log(name, "default", follow=True, _preload_content=False).stream()
    assert next(lines) == b"up\n"
    client.core.delete_namespaced_pod(name, "default")
    assert next(lines) == b"stopping\n"
    cluster.wait_for(lambda: cluster.objects("jobs")[0]["status"]["terminating"] == 1)
    assert len(cluster.objects("pods")) == 1
    (tmp_path / "go").write_text("")
    _replacement(cluster, first)


def test_a_duplicate_of_an_index_is_stopped(cluster: Cluster, client: Client) -> None:
    """ "Indexed ... it's possible, though rare, that more than one Pod is started for the same index"."""
    client.batch.create_namespaced_job("default", job("x", "exec sleep 60"))
    first = running(cluster)
    twin = cluster.duplicate(first)
    assert twin["status"]["phase"] == "Running" and twin["spec"]["hostname"] == "x-0"
    cluster.wait_for(lambda: len(cluster.objects("pods")) == 1)
    assert in_phase(cluster, "Running")[0]["metadata"]["uid"] == first["metadata"]["uid"]


def test_the_pods_of_a_lost_node_fail_and_the_job_goes_on_elsewhere(tmp_path: Path) -> None:
    """ "Pod disruption conditions": DeletionByPodGC."""
    with running_cluster(tmp_path, nodes=[Node("one"), Node("two")]) as cluster:
        manifest = job("x", "exec sleep 60", backoffLimit=0, podFailurePolicy=_IGNORE_DISRUPTION)
        client_of(cluster).batch.create_namespaced_job("default", manifest)
        first = running(cluster)
        cluster.lose_node(first["spec"]["nodeName"])
        assert _replacement(cluster, first)["spec"]["nodeName"] != first["spec"]["nodeName"]


def test_refused_pods_are_an_event_of_the_job(cluster: Cluster, client: Client) -> None:
    """ "Resource Quotas": the job is there, its pods are not, and an event says why."""
    cluster.refuse_pods("exceeded quota: team, requested: nvidia.com/gpu=8, used: 8, limited: 8")
    client.batch.create_namespaced_job("default", job("x", "true"))

    def failed() -> Any:
        return [e for e in cluster.objects("events") if e["reason"] == "FailedCreate"]

    event = cluster.wait_for(failed)[0]
    assert event["message"].startswith('Error creating: pods "x-0-')
    assert '" is forbidden: exceeded quota: team, ' in event["message"]
    cluster.refuse_pods(None)
    finished(cluster)
