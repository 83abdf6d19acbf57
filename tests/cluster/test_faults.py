"""What disturbs pods on a real cluster costs no retry, and the ids are those of an undisturbed job."""

import signal
import time
from collections.abc import Callable

import pytest

from progdistill.data.dataset import DatasetInfo
from tests.cluster.real import Object, RealJob
from tests.faults import test_cluster_faults
from tests.jobs.kubernetes_jobs import finished


def _delete(job: RealJob, pod: Object) -> None:
    job.cluster.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")


def _delete_by_force(job: RealJob, pod: Object) -> None:
    job.cluster.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force", "--wait=false")


def _evict(job: RealJob, pod: Object) -> None:
    job.cluster.evict(pod)


@pytest.mark.parametrize("disturb", [_delete, _delete_by_force, _evict])
@pytest.mark.parametrize("host", [0, 1])
def test_a_pod_that_is_removed_is_replaced_at_no_cost(
    disturb: Callable[[RealJob, Object], None], host: int, job: RealJob, expected: str
) -> None:
    job.hold()
    job.change(backoff_limit=0, grace_seconds=30)
    driver = job.drive()
    job.wait_for_line(driver, "[rank 1] reached training.update")
    pod = job.pods()[host]
    disturb(job, pod)
    job.release(pod)
    status, checkpoint, said = finished(driver)
    assert (status, checkpoint) == (0, expected), said


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_a_killed_rank_is_restarted_in_its_pod(number: int, job: RealJob, expected: str) -> None:
    job.hold()
    job.change(backoff_limit=0)
    driver = job.drive()
    job.wait_for_line(driver, "[rank 1] reached training.update")
    before = {pod["metadata"]["uid"] for pod in job.pods()}
    job.kill_rank(job.pods()[1], number)
    job.release()
    job.wait_for_line(driver, "restart")
    assert {pod["metadata"]["uid"] for pod in job.pods()} == before
    status, checkpoint, said = finished(driver)
    assert (status, checkpoint) == (0, expected), said


def test_the_tenth_kill_costs_no_more_than_the_first(
    job: RealJob, cluster_digits: DatasetInfo, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def many_updates(one: RealJob) -> RealJob:
        spec = one.request.spec
        training = spec.training.model_copy(update={"updates": 50})
        one.request = one.request.model_copy(update={"spec": spec.model_copy(update={"training": training})})
        return one

    undisturbed = many_updates(RealJob(job.cluster, tmp_path_factory.mktemp("undisturbed"), cluster_digits))
    status, checkpoint, said = finished(undisturbed.drive())
    assert status == 0, said
    many_updates(job).hold()  # each start of the ranks is held in its fifth update, after two snapshots
    job.change(backoff_limit=0)
    driver = job.drive()
    job.wait_for_line(driver, "[rank 1] reached training.update")
    before = {pod["metadata"]["uid"] for pod in job.pods()}
    for number in range(10):
        killed = time.monotonic()
        job.kill_rank(job.pods()[number % 2])
        job.wait_for_line(driver, "[rank 1] reached training.update")
        print(f"kill {number + 1}: training again after {time.monotonic() - killed:.0f} s")
    assert {pod["metadata"]["uid"] for pod in job.pods()} == before
    job.release()
    assert finished(driver)[:2] == (0, checkpoint)


def test_an_image_that_is_not_there_is_named_and_given_up(job: RealJob) -> None:
    job.change(image="registry.example/progdistill:none", image_pull_timeout_seconds=3)
    status, _, said = finished(job.drive())
    assert status == 2 and "registry.example/progdistill:none" in said.partition("error: ")[2]
    job.cluster.wait_for(lambda: not job.cluster.objects("jobs"))


def test_an_exceeded_quota_is_passed_on(job: RealJob) -> None:
    with job.cluster.quota("pods", "0"):
        driver = job.drive()
        said = job.wait_for_line(driver, "exceeded quota: progdistill")
        assert "FailedCreate" in said
        driver.terminate()
        assert finished(driver)[0] == 130


def test_a_lack_of_gpus_is_said(job: RealJob) -> None:
    with job.cluster.quota("requests.nvidia.com/gpu", "8"):
        test_cluster_faults.test_a_lack_of_gpus_is_said_within_half_a_minute(job)
