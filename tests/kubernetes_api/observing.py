"""What has become of jobs and pods."""

from typing import Any

from tests.kubernetes_api import Cluster


def conditions(item: Any) -> dict[str, str]:
    """The true conditions of a job, and their reasons."""
    return {
        c["type"]: c.get("reason", "") for c in item["status"].get("conditions", []) if c["status"] == "True"
    }


def finished(cluster: Cluster, name: str = "x") -> Any:
    """Wait until a job is Complete or Failed."""

    def look() -> Any:
        [found] = [item for item in cluster.objects("jobs") if item["metadata"]["name"] == name]
        return found if {"Complete", "Failed"} & set(conditions(found)) else None

    return cluster.wait_for(look)


def pods_in_phase(cluster: Cluster, phase: str) -> list[Any]:
    """Pods of this phase that nobody is deleting."""
    pods = [pod for pod in cluster.objects("pods") if "deletionTimestamp" not in pod["metadata"]]
    return [pod for pod in pods if pod["status"]["phase"] == phase]


def state(cluster: Cluster, name: str = "x") -> Any:
    """The state of a pod's container."""
    [found] = [item for item in cluster.objects("pods") if item["metadata"]["name"] == name]
    return (found["status"].get("containerStatuses") or [{"state": {}}])[0]["state"]


def ended(cluster: Cluster, name: str = "x") -> Any:
    """Wait for its end: the terminated state."""
    return cluster.wait_for(lambda: state(cluster, name).get("terminated"))


def running(cluster: Cluster, name: str = "x") -> Any:
    """Wait until it runs: the pod."""
    cluster.wait_for(lambda: state(cluster, name).get("running"))
    return next(item for item in cluster.objects("pods") if item["metadata"]["name"] == name)
