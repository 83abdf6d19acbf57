"""Two jobs share a Kueue quota for one: the higher priority preempts, and the other job still ends in the same ids."""

import json
import time
from collections.abc import Iterator

import pytest
import yaml

from progdistill.data.dataset import DatasetInfo
from tests.cluster.real import RealCluster, RealJob
from tests.infra.tools import KUBERNETES
from tests.jobs.asking import base_of_two_ranks
from tests.jobs.kubernetes_jobs import finished

QUEUE = "progdistill"


@pytest.fixture
def queue(cluster: RealCluster) -> Iterator[str]:
    """The shipped queue, with cores for one job; skipped where Kueue is not installed."""
    if "NotFound" in cluster.kubectl("get", "crd", "clusterqueues.kueue.x-k8s.io", check=False):
        pytest.skip("this cluster has no Kueue")
    queues = list(yaml.safe_load_all((KUBERNETES / "components/kueue/queues.yaml").read_text()))
    [shared] = [item for item in queues if item["kind"] == "ClusterQueue"]
    resources = shared["spec"]["resourceGroups"][0]["flavors"][0]["resources"]
    next(item for item in resources if item["name"] == "cpu")["nominalQuota"] = "1"
    manifests = "\n---\n".join(map(json.dumps, queues))
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=manifests)
    yield QUEUE
    cluster.kubectl("delete", "-f", "-", stdin=manifests)


def _queue_with(job: RealJob, queue: str, priority_class: str) -> None:
    train = {**job.settings.train.model_dump(), "queue": queue, "priority_class": priority_class}
    job.change(backoff_limit=0, grace_seconds=30, train=train)


@pytest.mark.timeout(1800)
def test_a_preempted_job_ends_with_the_ids_of_an_undisturbed_one(
    job: RealJob, queue: str, expected: str, cluster_digits: DatasetInfo, tmp_path_factory: pytest.TempPathFactory
) -> None:
    job.hold()
    _queue_with(job, queue, "progdistill-evaluate")
    driver = job.drive()
    job.wait_for_line(driver, "[rank 1] reached training.update")
    pods, since = job.pods(), time.monotonic()
    urgent = RealJob(job.cluster, tmp_path_factory.mktemp("urgent"), cluster_digits)
    urgent.request = base_of_two_ranks(urgent.store, cluster_digits, seed=1)
    _queue_with(urgent, queue, "progdistill-train")
    try:
        preempting = urgent.drive()
        job.release(*pods)
        print(f"preempted after {time.monotonic() - since:.0f} s")
        status, _, said = finished(preempting, seconds=600)
        print(f"the urgent job ended after {time.monotonic() - since:.0f} s")
        assert status == 0, said
        status, checkpoint, said = finished(driver, seconds=600)
        print(f"the preempted job ended after {time.monotonic() - since:.0f} s")
        assert (status, checkpoint) == (0, expected), said
        assert f"{job.name} is queued" in said
    finally:
        urgent.stop()
