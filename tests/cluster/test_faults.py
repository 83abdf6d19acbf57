"""What disturbs pods on a real cluster costs no retry, and the ids are those of an undisturbed job."""

from collections.abc import Callable

import pytest

from tests.cluster.real import Object, RealJob
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


def test_a_killed_rank_is_restarted_in_its_pod(job: RealJob, expected: str) -> None:
    job.hold()
    job.change(backoff_limit=0)
    driver = job.drive()
    job.wait_for_line(driver, "[rank 1] reached training.update")
    before = {pod["metadata"]["uid"] for pod in job.pods()}
    job.kill_rank(job.pods()[1])
    job.release()
    job.wait_for_line(driver, "restart")
    assert {pod["metadata"]["uid"] for pod in job.pods()} == before
    status, checkpoint, said = finished(driver)
    assert (status, checkpoint) == (0, expected), said


def test_an_image_that_is_not_there_is_named_and_given_up(job: RealJob) -> None:
    job.change(image="registry.example/progdistill:none", image_pull_timeout_seconds=3)
    status, _, said = finished(job.drive())
    assert status == 2 and "registry.example/progdistill:none" in said.partition("error: ")[2]
    job.cluster.wait_for(lambda: not job.cluster.objects("jobs"))


def test_an_exceeded_quota_is_passed_on(job: RealJob) -> None:
    change = ("patch", "resourcequota", "progdistill", "--type=merge", "-p")
    job.cluster.kubectl(*change, '{"spec": {"hard": {"pods": "0"}}}')
    try:
        driver = job.drive()
        said = job.wait_for_line(driver, "exceeded quota: progdistill")
        assert "FailedCreate" in said
        driver.terminate()
        assert finished(driver)[0] == 130
    finally:
        job.cluster.kubectl(*change, '{"spec": {"hard": {"pods": "100"}}}')
