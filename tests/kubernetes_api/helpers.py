"""Manifests, a client, and views of a cluster, for the tests of the server."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import kubernetes
import pytest
from kubernetes.client.exceptions import ApiException

from tests.kubernetes_api import Cluster

GRACE = 60


class Client(NamedTuple):
    """The real client's API classes for one cluster."""

    batch: Any
    core: Any
    authorization: Any


def client_of(cluster: Cluster) -> Client:
    """A client configured by the cluster's kubeconfig, which repeats no requests by itself."""
    api = kubernetes.config.new_client_from_config(config_file=str(cluster.kubeconfig))
    api.rest_client.pool_manager.connection_pool_kw["retries"] = False
    k8s = kubernetes.client
    return Client(k8s.BatchV1Api(api), k8s.CoreV1Api(api), k8s.AuthorizationV1Api(api))


def container(command: str, changes: dict[str, Any]) -> dict[str, Any]:
    """A container that runs a shell command, with changes."""
    return {"name": "main", "image": "trainer:1", "command": ["sh", "-c", command]} | changes


def pod(name: str, command: str, **spec: Any) -> dict[str, Any]:
    """A pod that runs a shell command."""
    defaults = {"restartPolicy": "Never", "terminationGracePeriodSeconds": GRACE}
    spec = {**defaults, "containers": [container(command, spec.pop("container", {}))], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def job(name: str, command: str, *, hosts: int = 1, pod_spec: Any = None, **spec: Any) -> dict[str, Any]:
    """An Indexed Job that runs a shell command on each host."""
    template = {"spec": pod("", command, **(pod_spec or {}))["spec"]}
    indexed = {"completionMode": "Indexed", "completions": hosts, "parallelism": hosts}
    spec = {**indexed, "template": template, **spec}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


def service(name: str, labels: dict[str, str] | None = None, owner: Any = None) -> dict[str, Any]:
    """A headless Service, owned by a Job if one is given."""
    metadata: dict[str, Any] = {"name": name, "labels": labels or {}}
    if owner is not None:
        reference = {"apiVersion": "batch/v1", "kind": "Job"}
        metadata["ownerReferences"] = [reference | {"name": owner.metadata.name, "uid": owner.metadata.uid}]
    selector = {"batch.kubernetes.io/job-name": "x"}
    return {"metadata": metadata, "spec": {"clusterIP": "None", "selector": selector}}


def refusal(request: Callable[[], object]) -> dict[str, Any]:
    """Run a request that must be refused; the Status it is refused with."""
    with pytest.raises(ApiException) as caught:
        request()
    status: dict[str, Any] = json.loads(caught.value.body)
    assert status["kind"] == "Status" and status["code"] == caught.value.status
    return status


def log_of(client: Client, name: str, **options: Any) -> str:
    """A pod's log as text. The client decodes no text itself since 36.0 (kubernetes-client/python #2596)."""
    answer = client.core.read_namespaced_pod_log(name, "default", _preload_content=False, **options)
    return bytes(answer.data).decode()


def conditions(item: Any) -> dict[str, str]:
    """The true conditions of a job, and their reasons."""
    found = item["status"].get("conditions", [])
    return {c["type"]: c.get("reason", "") for c in found if c["status"] == "True"}


def finished(cluster: Cluster, name: str = "x") -> Any:
    """Wait until a job is Complete or Failed."""

    def look() -> Any:
        [found] = [item for item in cluster.objects("jobs") if item["metadata"]["name"] == name]
        return found if {"Complete", "Failed"} & set(conditions(found)) else None

    return cluster.wait_for(look)


def in_phase(cluster: Cluster, phase: str) -> list[Any]:
    """Pods of this phase that nobody is deleting."""
    pods = [item for item in cluster.objects("pods") if "deletionTimestamp" not in item["metadata"]]
    return [item for item in pods if item["status"]["phase"] == phase]


def running(cluster: Cluster) -> Any:
    """Wait until the one pod runs."""
    return cluster.wait_for(lambda: in_phase(cluster, "Running"))[0]


def state(cluster: Cluster) -> Any:
    """The state of the one pod's container."""
    [found] = cluster.objects("pods")
    return (found["status"].get("containerStatuses") or [{"state": {}}])[0]["state"]


def ended(cluster: Cluster) -> Any:
    """Wait until the one pod has ended: the terminated state of its container."""
    return cluster.wait_for(lambda: state(cluster).get("terminated"))
