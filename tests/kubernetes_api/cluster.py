"""A whole cluster in this process, and the actions that tests can take on it."""

import contextlib
import copy
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import yaml

from tests.kubernetes_api.api import USER, Access, Api
from tests.kubernetes_api.container import Container
from tests.kubernetes_api.control_plane import ControlPlane
from tests.kubernetes_api.errors import ApiError
from tests.kubernetes_api.faults import Faults
from tests.kubernetes_api.jobs import JobController, index_of, new_pod
from tests.kubernetes_api.kubelet import Kubelet
from tests.kubernetes_api.objects import (
    JOBS,
    NAMESPACES,
    NODES,
    PODS,
    Object,
    is_finished,
    key_of,
    named,
    set_condition,
)
from tests.kubernetes_api.scheduler import Node
from tests.kubernetes_api.server import Request, Server
from tests.kubernetes_api.storage import Storage

TOKEN = "test-token"
_MESSAGES = {
    "EvictionByEvictionAPI": "Eviction API: evicting",
    "PreemptionByScheduler": "default-scheduler: preempting to accommodate a higher priority pod",
    "DeletionByTaintManager": "Taint manager: deleting due to NoExecute taint",
    "DeletionByPodGC": "PodGC: node no longer exists",
    "TerminationByKubelet": "The node was low on resource: memory.",
}


class Cluster:
    """What `running_cluster` gives."""

    def __init__(
        self, folder: Path, nodes: Sequence[Node], node_environment: Mapping[str, str], backoff_seconds: float
    ) -> None:
        self.storage = Storage()
        self._access = Access()
        self._kubelet = Kubelet(self.storage, folder / "pods", node_environment)
        self.faults = Faults(self.storage)
        self._server = Server(Api(self.storage, self._access), self._kubelet, self.faults, TOKEN)
        jobs = JobController(self.storage, backoff_seconds)
        self._control_plane = ControlPlane(self.storage, jobs, self._kubelet)
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}
        self.storage.create(NAMESPACES, namespace)
        for node in nodes:
            self.storage.create(NODES, node.manifest())
        self.kubeconfig = folder / "kubeconfig.yaml"

    def start(self) -> None:
        """Begin to answer and to control."""
        self._server.start()
        self._control_plane.start()
        self._write_kubeconfig(TOKEN)

    def renew_token(self, token: str) -> None:
        """From now on the server accepts this token only, and the kubeconfig has it."""
        self._server.token = token
        self._write_kubeconfig(token)

    def _write_kubeconfig(self, token: str) -> None:
        user = {"name": USER, "user": {"token": token}}
        context = {"name": "test", "context": {"cluster": "test", "user": USER, "namespace": "default"}}
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "test", "users": [user]}
        config |= {"clusters": [{"name": "test", "cluster": {"server": self.url}}], "contexts": [context]}
        self.kubeconfig.write_text(yaml.safe_dump(config))

    def stop(self) -> None:
        """End everything that runs, and close the port."""
        self._server.close()
        self._control_plane.stop()
        self._kubelet.stop()

    @property
    def url(self) -> str:
        """Address of the API server."""
        return self._server.url

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in the order of their answers."""
        return list(self._server.requests)

    def objects(self, plural: str) -> list[Object]:
        """All objects of a resource, in every namespace."""
        return self.storage.list(named(plural))

    def allow_only(self, rules: Mapping[str, Set[str]] | None) -> None:
        """From now on the token may do this and nothing else; None allows everything again."""
        self._access.rules = rules

    def stop_answering(self) -> None:
        """The API server goes away; what runs on the nodes goes on."""
        self._server.stop()

    def answer_again(self) -> None:
        """It is back, at the same address and with its state."""
        self._server.start()

    def evict(self, pod: Object, reason: str = "PreemptionByScheduler") -> None:
        """Disrupt a pod: DisruptionTarget, then SIGTERM and the grace period.

        TerminationByKubelet leaves a pod that Failed. The other reasons delete it; as in a cluster, a process
        that exits with 0 on SIGTERM then leaves a pod that Succeeded.
        """
        with self.storage.changed:
            item, message = self._pod(pod), _MESSAGES[reason]
            self.storage.update(
                PODS, *key_of(item), lambda t: set_condition(t, "DisruptionTarget", "True", reason, message)
            )
            if reason != "TerminationByKubelet":
                self.storage.delete(PODS, *key_of(item))
            elif container := self._kubelet.container(item):
                container.evicted = message
                container.terminate(item["spec"]["terminationGracePeriodSeconds"])

    def exceed_disk(self, pod: Object) -> None:
        """The kubelet evicts a pod that exceeds its ephemeral storage: SIGTERM, 1 s, no DisruptionTarget."""
        with self.storage.changed:
            container = self._kubelet.container(self._pod(pod))
            if container is None:
                raise LookupError("the pod has no running container")
            container.evicted = "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. "
            container.terminate(1)

    def was_told_to_stop(self, pod: Object) -> bool:
        """Whether its process has got SIGTERM, or has ended."""
        with self.storage.changed:
            container = self._kubelet.container(pod)
            return container is None or container.stopping

    def oom_kill(self, pod: Object) -> None:
        """The kernel kills the container for its memory: exit code 137, reason OOMKilled."""
        with self.storage.changed:
            container = self._running(pod)
            container.oom_killed = True
            container.kill()

    def duplicate(self, pod: Object) -> Object:
        """Another pod of the same job and index, which runs before the job controller sees it."""
        with self.storage.changed:
            original = self._pod(pod)
            owner = original["metadata"]["ownerReferences"][0]["name"]
            job = self.storage.get(JOBS, original["metadata"]["namespace"], owner)
            twin = new_pod(job, index_of(original))
            twin["spec"]["nodeName"] = original["spec"]["nodeName"]
            created = self.storage.create(PODS, twin)
            self._kubelet.sync()  # the container is being created
            self._kubelet.sync()  # it runs
            return self.storage.get(PODS, *key_of(created))

    def delete_job(self, name: str) -> None:
        """Somebody else deletes a job."""
        self.storage.delete(JOBS, "default", name)

    def created_jobs(self, name: str) -> set[str]:
        """The uids of all Jobs of that name that got pods."""
        events = [event["involvedObject"] for event in self.objects("events") if event["reason"] == "SuccessfulCreate"]
        return {about["uid"] for about in events if about["name"] == name}

    def refuse_image(self, image: str) -> None:
        """From now on this image cannot be pulled."""
        with self.storage.changed:
            self._kubelet.refused_images.add(image)
            self._kubelet.poke()

    def allow_image(self, image: str) -> None:
        """It can be pulled again, and waiting pods start."""
        with self.storage.changed:
            self._kubelet.refused_images.discard(image)
            self._kubelet.poke()

    def refuse_pods(self, why: str | None) -> None:
        """An admission plugin refuses new pods, as an exceeded quota does; None admits them again."""
        with self.storage.changed:
            self.storage.refused_pods = why
            self._kubelet.poke()

    def add_node(self, node: Node) -> None:
        """A node joins."""
        self.storage.create(NODES, node.manifest())

    def lose_node(self, name: str) -> None:
        """A node disappears with all that runs on it; its pods fail as the pod garbage collector has it."""
        reason = "DeletionByPodGC"
        with self.storage.changed:
            self.storage.delete(NODES, "", name)
            for pod in self.storage.list(PODS):
                if pod["spec"].get("nodeName") != name or is_finished(pod):
                    continue

                def change(target: Object) -> None:
                    set_condition(target, "DisruptionTarget", "True", reason, _MESSAGES[reason])
                    target["status"]["phase"] = "Failed"

                self._kubelet.lose(pod)
                self.storage.update(PODS, *key_of(pod), change)
                self.storage.delete(PODS, *key_of(pod), grace_seconds=0)

    def _pod(self, pod: Object) -> Object:
        return self.storage.get(PODS, *key_of(pod))

    def _running(self, pod: Object) -> Container:
        container = self._kubelet.container(pod)
        if container is None:
            raise LookupError("the pod has no running container")
        return container

    def wait_for(self, predicate: Callable[[], Any], timeout_seconds: float = 120) -> Any:
        """Wait until `predicate()` is true and return what it gave; asked again when any object changes."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            with self.storage.changed:
                if self.storage.problems:
                    raise RuntimeError("the cluster itself has failed") from self.storage.problems[0]
                version = self.storage.version
            with contextlib.suppress(ApiError):
                if found := predicate():
                    return found
            with self.storage.changed:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"not so after {timeout_seconds} s; {self.summary()}")
                if self.storage.version == version:
                    # Also now and then without a change: a predicate may look at something else as well.
                    self.storage.changed.wait(min(left, 0.2))

    def summary(self) -> str:
        """What there is, for the message of a failed wait."""
        pods = {p["metadata"]["name"]: p["status"].get("phase") for p in self.objects("pods")}
        jobs = {j["metadata"]["name"]: copy.deepcopy(j["status"]) for j in self.objects("jobs")}
        events = [f"{e['reason']}: {e['message']}" for e in self.objects("events")][-10:]
        return f"pods {pods}; jobs {jobs}; events {events}"


@contextlib.contextmanager
def running_cluster(
    folder: Path,
    *,
    nodes: Sequence[Node] = (Node("node-1", cpu=64, memory_gib=256),),
    node_environment: Mapping[str, str] | None = None,
    backoff_seconds: float = 0.05,
) -> Iterator[Cluster]:
    """Run a cluster with its files in `folder`; at the end everything in it is killed.

    `node_environment` is what containers find set before their pod's own variables: the role of the image. By
    default it is this process's environment.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ) if node_environment is None else node_environment
    cluster = Cluster(folder, nodes, environment, backoff_seconds)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()
    if cluster.storage.problems:
        raise RuntimeError("the cluster itself has failed") from cluster.storage.problems[0]
