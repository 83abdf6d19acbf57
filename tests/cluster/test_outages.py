"""What disturbs the cluster itself ends in the ids of an undisturbed job; TEST_CLUSTER_BREAK names a program for it."""

import os
import subprocess
import time

import pytest

from tests.cluster.real import GO, RealCluster, RealJob
from tests.jobs.kubernetes_jobs import finished

BREAK = os.environ.get("TEST_CLUSTER_BREAK")
AWAY_SECONDS = 60
_EACH_ON_A_NODE = {
    "podAntiAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {
                "weight": 100,
                "podAffinityTerm": {
                    "topologyKey": "kubernetes.io/hostname",
                    "labelSelector": {"matchLabels": {"app.kubernetes.io/managed-by": "progdistill"}},
                },
            }
        ]
    }
}
_LOST_AT_ONCE = {
    "key": "node.kubernetes.io/unreachable",
    "operator": "Exists",
    "effect": "NoExecute",
    "tolerationSeconds": 5,
}


def _break(*arguments: str) -> None:
    assert BREAK is not None
    subprocess.run([BREAK, *arguments], check=True, timeout=60)


@pytest.fixture
def spread(job: RealJob) -> RealJob:
    """The job with a node for each pod, held in its fifth update."""
    if BREAK is None:
        pytest.skip("TEST_CLUSTER_BREAK names no program that breaks this cluster")
    job.hold()
    job.change(backoff_limit=0, grace_seconds=30, affinity=_EACH_ON_A_NODE)
    return job


def _uids(job: RealJob) -> set[str]:
    return {pod["metadata"]["uid"] for pod in job.pods()}


def _is_ready(cluster: RealCluster, node: str) -> bool:
    path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    return cluster.kubectl("get", "node", node, "-o", path, check=False) == "True"


def _ends_as(expected: str, driver: "subprocess.Popen[str]", since: float, what: str) -> str:
    status, checkpoint, said = finished(driver, seconds=900)
    print(f"{what}: the job ended after {time.monotonic() - since:.0f} s")
    assert (status, checkpoint) == (0, expected), said
    return said


def test_an_api_server_that_is_away_for_a_minute_interrupts_no_rank(spread: RealJob, expected: str) -> None:
    driver = spread.drive()
    spread.wait_for_line(driver, "[rank 1] reached training.update")
    before, since = _uids(spread), time.monotonic()
    _break("api-server", "stop")
    try:
        time.sleep(AWAY_SECONDS)
    finally:
        _break("api-server", "start")
    spread.cluster.wait_for(lambda: spread.cluster.kubectl("get", "--raw", "/readyz", check=False) == "ok")
    assert _uids(spread) == before
    spread.release()
    _ends_as(expected, driver, since, "API server away")


def test_a_node_whose_network_is_away_for_a_minute_costs_no_retry(spread: RealJob, expected: str) -> None:
    driver = spread.drive()
    spread.wait_for_line(driver, "[rank 1] reached training.update")
    (waits, lost), since = spread.pods(), time.monotonic()
    spread.kill_or_do(lost, "touch", GO)  # its rank sends to the other one, which is not there yet
    node = lost["spec"]["nodeName"]
    _break("network", "stop", node)
    try:
        spread.kill_or_do(waits, "touch", GO)
        time.sleep(AWAY_SECONDS)
    finally:
        _break("network", "start", node)
    spread.release()
    _ends_as(expected, driver, since, "network away")


def test_a_node_that_is_dead_for_good_is_named_until_it_is_deleted(spread: RealJob, expected: str) -> None:
    spread.change(pod_patch={"tolerations": [_LOST_AT_ONCE]})
    driver = spread.drive()
    spread.wait_for_line(driver, "[rank 1] reached training.update")
    (_, lost), since = spread.pods(), time.monotonic()
    node = lost["spec"]["nodeName"]
    _break("node", "stop", node)
    try:
        said = spread.wait_for_line(driver, f"kubectl delete node {node}")
        print(f"dead node: named after {time.monotonic() - since:.0f} s")
        assert f"host 1 on node {node} should have stopped, but the node does not answer" in said
        spread.cluster.kubectl("delete", "node", node)
        since = time.monotonic()
        spread.release()
        _ends_as(expected, driver, since, "deleted node")
    finally:
        _break("node", "start", node)
        spread.cluster.wait_for(lambda: _is_ready(spread.cluster, node))


def test_controllers_that_restart_while_a_pod_is_replaced_cost_nothing(spread: RealJob, expected: str) -> None:
    driver = spread.drive()
    spread.wait_for_line(driver, "[rank 1] reached training.update")
    (_, lost), since = spread.pods(), time.monotonic()
    spread.cluster.kubectl("delete", "pod", lost["metadata"]["name"], "--wait=false")
    _break("controllers", "restart")
    spread.release(lost)
    _ends_as(expected, driver, since, "controllers restarted")
