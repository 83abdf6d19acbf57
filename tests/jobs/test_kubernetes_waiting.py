"""What a job waits for is said once: events, Kueue's reason, and a node that does not answer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from progdistill.config.cluster import ClusterSettings, StepResources
from progdistill.data.dataset import DatasetInfo
from progdistill.jobs.events import ignore
from progdistill.jobs.kubernetes import waiting
from progdistill.jobs.kubernetes.api import ClusterApi, connect
from progdistill.jobs.kubernetes.manifest import submission_for
from progdistill.jobs.kubernetes.waiting import WaitingLog
from progdistill.jobs.local import JobLog
from progdistill.store.open import open_store
from tests.jobs.kubernetes_jobs import IMAGE, cluster, cluster_digits, small_job
from tests.kubernetes_api import Cluster
from tests.kubernetes_api.objects import WORKLOADS
from tests.kubernetes_api.storage import record_event

__all__ = ["cluster", "cluster_digits"]

SETTINGS = ClusterSettings(image=IMAGE, train=StepResources(hosts=2, queue="research"), grace_seconds=1)


class Watched:
    """A job of two hosts that exists nowhere, and the log of what it waits for."""

    def __init__(self, api: ClusterApi, folder: Path, digits: DatasetInfo) -> None:
        store = open_store(str(folder / "store"))
        submission = submission_for(small_job(store, digits), SETTINGS, store)
        self.file, self.job = folder / "job.log", about("job", spec={"template": {}})
        self._log = WaitingLog(api, submission, JobLog(self.file, ignore))

    def said(self, *pods: dict[str, Any]) -> list[str]:
        """All lines so far, after a look at these pods."""
        self._log.update(self.job, pods)
        return self.file.read_text().splitlines() if self.file.exists() else []


def about(name: str, spec: dict[str, Any], **status: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default", "uid": f"uid-of-{name}"}
    return {"kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


@pytest.fixture
def watched(
    cluster: Cluster, tmp_path: Path, cluster_digits: DatasetInfo, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Watched]:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    monkeypatch.setattr(waiting, "EVENTS_SECONDS", 0.0)
    api = connect(SETTINGS)
    yield Watched(api, tmp_path, cluster_digits)
    api.closed.set()


def test_any_warning_about_a_pod_that_does_not_run_is_said_once_with_its_count(
    cluster: Cluster, watched: Watched
) -> None:
    pod, other = about("p", {"nodeName": "node-7"}, phase="Pending"), about("other", {})
    for sandbox in ("0a1b2c3d4e", "5f6a7b8c9d"):
        message = f'Failed to create pod sandbox: failed to setup network for sandbox "{sandbox}": no addresses'
        record_event(cluster.storage, pod, "Warning", "FailedCreatePodSandBox", message, "kubelet", count=3)
    record_event(cluster.storage, other, "Warning", "Failed", "of another job", "kubelet")
    record_event(cluster.storage, pod, "Normal", "Pulled", "fine", "kubelet")
    for _ in range(2):
        [line] = watched.said(pod)
    assert line.startswith("host 0 on node node-7: FailedCreatePodSandBox: Failed to create pod sandbox")
    assert line.endswith("no addresses (3 times so far)")


def test_a_node_that_is_not_ready_is_named_though_the_pod_runs(cluster: Cluster, watched: Watched) -> None:
    status = {"name": "worker", "state": {"running": {}}}
    unready = [{"type": "Ready", "status": "False"}]
    pod = about("p", {"nodeName": "node-7"}, phase="Running", containerStatuses=[status], conditions=unready)
    record_event(cluster.storage, pod, "Warning", "NodeNotReady", "Node is not ready", "node-controller")
    assert watched.said(pod, pod) == ["host 0 on node node-7: NodeNotReady: Node is not ready"]


def test_a_pod_that_does_not_end_names_its_node_and_what_is_waited_for(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = about("p", {"nodeName": "node-7"}, phase="Running")
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert watched.said(pod) == []
    monkeypatch.setattr(waiting, "STUCK_SECONDS", -2.0)
    [line] = watched.said(pod)
    assert line.startswith("host 0 on node node-7 should have stopped") and line.endswith("kubectl delete node node-7")


def test_kueue_says_what_a_queued_job_waits_for(cluster: Cluster, watched: Watched) -> None:
    why = "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu, 8 more needed"
    reserved = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": why}
    labels = {"kueue.x-k8s.io/job-uid": "uid-of-job"}
    workload = {
        "metadata": {"name": "w", "namespace": "default", "labels": labels},
        "status": {"conditions": [reserved]},
    }
    cluster.storage.create(WORKLOADS, workload)
    watched.job["spec"]["suspend"] = True
    said = watched.said()
    assert "queued in research" in said[0] and said[1].endswith(f"is queued: {why}")
    cluster.allow_only({"events": {"list"}})
    assert watched.said() == said
