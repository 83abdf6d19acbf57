"""A job runs in pods of a cluster, from the submission to the last line of its log."""

from tests.jobs.on_a_cluster import OneJob, cluster, cluster_digits, finished, job

__all__ = ["cluster", "cluster_digits", "job"]


def test_two_pods_train_one_model_and_leave_nothing_behind(job: OneJob) -> None:
    status, checkpoint, said = finished(job.drive())
    assert status == 0, said
    assert job.store.read(f"checkpoints/{checkpoint}/manifest.json")
    assert job.store.read(f"jobs/{job.request.spec.id}/request.json") is None
    job.cluster.wait_for(lambda: not any(job.cluster.objects(kind) for kind in ("jobs", "pods", "services")))
