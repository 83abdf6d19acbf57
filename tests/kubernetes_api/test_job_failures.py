"""Failing pods, held against "Jobs": pod failure policy, backoff limit, replacement policy."""

import os
from typing import Any

from tests.kubernetes_api import Cluster
from tests.kubernetes_api.clients import Client, log_of
from tests.kubernetes_api.conditions import condition
from tests.kubernetes_api.manifests import job
from tests.kubernetes_api.observing import conditions, finished, pods_in_phase

_SLEEP = {"terminationGracePeriodSeconds": 60}
_IGNORE_DISRUPTION = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}


def _exit_codes(action: str, operator: str, *values: int) -> dict[str, Any]:
    rule = {
        "action": action,
        "onExitCodes": {"containerName": "main", "operator": operator, "values": list(values)},
    }
    return {"rules": [rule]}


def test_too_many_failures_end_the_job(cluster: Cluster, client: Client) -> None:
    """backoffLimit 1: the first failure is retried, the second is one too many."""
    client.batch.create_namespaced_job("default", job("x", "exit 3", backoffLimit=1))
    done = finished(cluster)
    assert conditions(done) == {"FailureTarget": "BackoffLimitExceeded", "Failed": "BackoffLimitExceeded"}
    assert done["status"]["failed"] == 2
    message = "Job has reached the specified backoff limit"
    assert done["status"]["conditions"][-1]["message"] == message
    cluster.wait_for(lambda: [e for e in cluster.objects("events") if e["reason"] == "BackoffLimitExceeded"])
    assert len(pods_in_phase(cluster, "Failed")) == 2


def test_the_other_pods_end_when_the_job_fails(cluster: Cluster, client: Client) -> None:
    command = "if [ $JOB_COMPLETION_INDEX = 1 ]; then exit 1; fi; exec sleep 60"
    client.batch.create_namespaced_job("default", job("x", command, indexed=2, backoffLimit=0))
    done = finished(cluster)
    assert done["status"].get("active", 0) == 0 and done["status"]["terminating"] == 0
    assert pods_in_phase(cluster, "Running") == []


def test_failjob_ends_the_job_at_the_first_such_exit_code(cluster: Cluster, client: Client) -> None:
    policy = _exit_codes("FailJob", "In", 2, 42)
    client.batch.create_namespaced_job("default", job("x", "exit 42", podFailurePolicy=policy))
    done = finished(cluster)
    assert conditions(done) == {"FailureTarget": "PodFailurePolicy", "Failed": "PodFailurePolicy"}
    [pod] = cluster.objects("pods")
    assert done["status"]["conditions"][-1]["message"] == (
        f"Container main for pod default/{pod['metadata']['name']} failed with exit code 42"
        " matching FailJob rule at index 0"
    )


def test_other_exit_codes_count_against_the_limit(cluster: Cluster, client: Client) -> None:
    policy = _exit_codes("FailJob", "In", 42)
    client.batch.create_namespaced_job("default", job("x", "exit 1", backoffLimit=0, podFailurePolicy=policy))
    assert conditions(finished(cluster))["Failed"] == "BackoffLimitExceeded"


def test_notin_takes_all_codes_but_those_listed(cluster: Cluster, client: Client) -> None:
    policy = _exit_codes("FailJob", "NotIn", 1)
    client.batch.create_namespaced_job("default", job("x", "exit 7", podFailurePolicy=policy))
    assert conditions(finished(cluster))["Failed"] == "PodFailurePolicy"


def test_ignored_exit_codes_do_not_count(cluster: Cluster, client: Client, tmp_path: Any) -> None:
    command = f"mkdir {tmp_path}/first && exit 75; exit 0"
    policy = _exit_codes("Ignore", "In", 75)
    client.batch.create_namespaced_job("default", job("x", command, backoffLimit=0, podFailurePolicy=policy))
    done = finished(cluster)
    assert conditions(done)["Complete"] == "CompletionsReached"
    assert done["status"].get("failed", 0) == 0 and done["status"]["succeeded"] == 1


def test_an_ignored_eviction_does_not_count_and_the_pod_is_replaced(cluster: Cluster, client: Client) -> None:
    """ "Pod disruption conditions": a preempted pod has DisruptionTarget, which the rule ignores."""
    manifest = job(
        "x",
        "exec sleep 60",
        indexed=1,
        backoffLimit=0,
        podFailurePolicy={"rules": [_IGNORE_DISRUPTION]},
        pod=_SLEEP,
    )
    client.batch.create_namespaced_job("default", manifest)
    [first] = cluster.wait_for(lambda: pods_in_phase(cluster, "Running"))
    cluster.evict(first, reason="PreemptionByScheduler")
    [second] = cluster.wait_for(
        lambda: [
            p for p in pods_in_phase(cluster, "Running") if p["metadata"]["uid"] != first["metadata"]["uid"]
        ]
    )
    assert second["spec"]["hostname"] == "x-0"
    assert cluster.objects("jobs")[0]["status"].get("failed", 0) == 0


def test_an_eviction_counts_without_that_rule(cluster: Cluster, client: Client) -> None:
    manifest = job("x", "exec sleep 60", indexed=1, backoffLimit=0, pod=_SLEEP)
    client.batch.create_namespaced_job("default", manifest)
    [pod] = cluster.wait_for(lambda: pods_in_phase(cluster, "Running"))
    cluster.evict(pod)
    assert conditions(finished(cluster))["Failed"] == "BackoffLimitExceeded"


def test_a_pod_that_its_node_evicts_fails_whatever_it_exits_with(cluster: Cluster, client: Client) -> None:
    """ "Node-pressure Eviction": the phase is Failed and the reason Evicted."""
    command = "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done"
    client.batch.create_namespaced_job("default", job("x", command, backoffLimit=0, pod=dict(_SLEEP)))
    [pod] = cluster.wait_for(lambda: pods_in_phase(cluster, "Running"))
    cluster.wait_for(lambda: log_of(client, pod["metadata"]["name"]) == "up\n")
    cluster.evict(pod, reason="TerminationByKubelet")
    [failed] = cluster.wait_for(lambda: pods_in_phase(cluster, "Failed"))
    assert failed["status"]["reason"] == "Evicted"
    assert condition(failed, "DisruptionTarget")["reason"] == "TerminationByKubelet"


def test_an_ending_pod_is_replaced_when_it_has_ended(cluster: Cluster, client: Client, tmp_path: Any) -> None:
    """podReplacementPolicy Failed: wait until the terminating pod "is fully terminated"."""
    command = f"trap 'echo stopping; cat {tmp_path}/go; exit 1' TERM; echo up; while :; do sleep 0.05; done"
    os.mkfifo(tmp_path / "go")
    manifest = job("x", command, indexed=1, podReplacementPolicy="Failed")
    client.batch.create_namespaced_job("default", manifest)
    [first] = cluster.wait_for(lambda: pods_in_phase(cluster, "Running"))
    log = client.core.read_namespaced_pod_log(
        first["metadata"]["name"], "default", follow=True, _preload_content=False
    )
    lines = log.stream()
    assert next(lines) == b"up\n"
    client.core.delete_namespaced_pod(first["metadata"]["name"], "default")
    assert next(lines) == b"stopping\n"
    cluster.wait_for(lambda: cluster.objects("jobs")[0]["status"]["terminating"] == 1)
    assert len(cluster.objects("pods")) == 1
    (tmp_path / "go").write_text("")
    cluster.wait_for(
        lambda: [
            p for p in pods_in_phase(cluster, "Running") if p["metadata"]["uid"] != first["metadata"]["uid"]
        ]
    )


def test_a_duplicate_of_an_index_is_stopped(cluster: Cluster, client: Client) -> None:
    """ "Indexed ... it's possible, though rare, that more than one Pod is started for the same index"."""
    client.batch.create_namespaced_job("default", job("x", "exec sleep 60", indexed=1, pod=_SLEEP))
    [first] = cluster.wait_for(lambda: pods_in_phase(cluster, "Running"))
    twin = cluster.duplicate(first)
    assert twin["status"]["phase"] == "Running" and twin["spec"]["hostname"] == "x-0"
    cluster.wait_for(lambda: len(cluster.objects("pods")) == 1)
    assert len(pods_in_phase(cluster, "Running")) == 1
