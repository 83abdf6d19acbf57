"""Scheduling, held against "Assigning Pods to Nodes" and the words of kube-scheduler."""

from pathlib import Path
from typing import Any

from kubernetes import watch

from tests.kubernetes_api import Cluster, Node, running_cluster
from tests.kubernetes_api.clients import Client, client_of
from tests.kubernetes_api.conditions import condition
from tests.kubernetes_api.manifests import job, pod
from tests.kubernetes_api.observing import pods_in_phase


def _refused(cluster: Cluster) -> Any:
    def look() -> Any:
        [item] = cluster.objects("pods")
        return condition(item, "PodScheduled") or None

    return cluster.wait_for(look)


def test_a_pod_that_fits_nowhere_stays_pending_and_says_why(cluster: Cluster, client: Client) -> None:
    container = {"resources": {"limits": {"nvidia.com/gpu": 8}}}
    client.core.create_namespaced_pod("default", pod("x", "true", container=container))
    scheduled = _refused(cluster)
    assert (scheduled["status"], scheduled["reason"]) == ("False", "Unschedulable")
    assert scheduled["message"] == (
        "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
        " preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    )
    [event] = cluster.wait_for(lambda: cluster.objects("events"))
    assert (event["type"], event["reason"]) == ("Warning", "FailedScheduling")
    assert event["message"] == scheduled["message"]
    assert cluster.objects("pods")[0]["status"]["phase"] == "Pending"


def test_a_pod_passes_from_pending_to_its_end(cluster: Cluster, client: Client) -> None:
    """ "Pod Lifecycle": phases and container states as a watch sees them."""
    client.core.create_namespaced_pod("default", pod("x", "true"))
    seen: list[str] = []
    stream = watch.Watch().stream(client.core.list_namespaced_pod, "default", resource_version="1")
    for event in stream:
        status = event["object"].status
        states = [c.state for c in status.container_statuses or []]
        waiting = [s.waiting.reason for s in states if s.waiting]
        seen.append("/".join([status.phase, *waiting]))
        if status.phase == "Succeeded":
            break
    stream.close()
    assert list(dict.fromkeys(seen)) == ["Pending", "Pending/ContainerCreating", "Running", "Succeeded"]


def test_each_nodes_obstacle_is_counted(tmp_path: Path) -> None:
    nodes = [
        Node("small", cpu=1),
        Node("tainted", taints=(("nvidia.com/gpu", "present", "NoSchedule"),)),
        Node("elsewhere", labels={"zone": "b"}),
    ]
    with running_cluster(tmp_path, nodes=nodes) as cluster:
        manifest = pod("x", "true", nodeSelector={"zone": "a"})
        client_of(cluster).core.create_namespaced_pod("default", manifest)
        message = _refused(cluster)["message"]
    assert message.startswith(
        "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector. "
    )


def test_a_taint_wants_a_toleration(tmp_path: Path) -> None:
    """ "Taints and Tolerations"."""
    node = Node("gpu-1", gpu=8, taints=(("nvidia.com/gpu", "present", "NoSchedule"),))
    with running_cluster(tmp_path, nodes=[node]) as cluster:
        client = client_of(cluster)
        client.core.create_namespaced_pod("default", pod("x", "true"))
        assert "1 node(s) had untolerated taint {nvidia.com/gpu: present}. " in _refused(cluster)["message"]
        client.core.delete_namespaced_pod("x", "default")
        cluster.wait_for(lambda: not cluster.objects("pods"))
        tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
        container = {"resources": {"limits": {"nvidia.com/gpu": 8}}}
        client.core.create_namespaced_pod(
            "default", pod("y", "true", tolerations=tolerations, container=container)
        )
        cluster.wait_for(lambda: cluster.objects("pods")[0]["status"]["phase"] == "Succeeded")


def test_what_is_taken_is_taken_until_its_pod_has_ended(tmp_path: Path) -> None:
    container = {"resources": {"limits": {"nvidia.com/gpu": 1}}}
    with running_cluster(tmp_path, nodes=[Node("gpu-1", gpu=1)]) as cluster:
        client = client_of(cluster)
        client.core.create_namespaced_pod("default", pod("first", "exec sleep 60", container=dict(container)))
        cluster.wait_for(lambda: cluster.objects("pods")[0]["status"]["phase"] == "Running")
        client.core.create_namespaced_pod("default", pod("second", "true", container=dict(container)))

        def second() -> Any:
            return client.core.read_namespaced_pod("second", "default")

        cluster.wait_for(lambda: second().status.conditions)
        assert second().status.conditions[0].message == (
            "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
            " preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
        )
        client.core.delete_namespaced_pod("first", "default")
        cluster.wait_for(lambda: second().status.phase == "Succeeded")


def test_the_pods_of_a_lost_node_fail_and_the_job_goes_on_elsewhere(tmp_path: Path) -> None:
    """ "Pod disruption conditions": DeletionByPodGC."""
    with running_cluster(tmp_path, nodes=[Node("one"), Node("two")]) as cluster:
        rule = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
        manifest = job("x", "exec sleep 60", indexed=1, backoffLimit=0, podFailurePolicy={"rules": [rule]})
        client_of(cluster).batch.create_namespaced_job("default", manifest)
        [pod_before] = cluster.wait_for(lambda: pods_in_phase(cluster, "Running"))
        cluster.lose_node(pod_before["spec"]["nodeName"])
        [pod_after] = cluster.wait_for(lambda: pods_in_phase(cluster, "Running"))
        assert pod_after["spec"]["nodeName"] != pod_before["spec"]["nodeName"]
