"""A job in the pods of a cluster, from its submission to the last line of its log."""

import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from progdistill.data.dataset import DatasetInfo
from progdistill.jobs.events import ignore
from progdistill.jobs.kubernetes.api import connect
from progdistill.jobs.kubernetes.submit import Submitter
from progdistill.jobs.local import JobLog
from tests.jobs.kubernetes_jobs import OneJob, cluster, cluster_digits, expected, finished, job

__all__ = ["cluster", "cluster_digits", "expected", "job"]


def test_two_pods_train_what_two_local_ranks_train_and_leave_nothing_behind(job: OneJob, expected: str) -> None:
    job.hold()
    driver = job.drive()
    said = job.wait_for_line(driver, "reached training.update")
    said += job.wait_for_line(driver, "reached training.update")  # the other rank's
    job.release()
    status, checkpoint, rest = finished(driver)
    assert (status, checkpoint) == (0, expected), rest
    said += rest
    assert job.store.read(f"jobs/{job.request.spec.id}/request.json") is None
    job.cluster.wait_for(lambda: not any(job.cluster.objects(kind) for kind in ("jobs", "pods", "services")))
    assert re.findall("^.*reached.*$", said, re.MULTILINE).count("reached training.update") == 1


def test_the_next_driver_attaches_to_the_job_of_a_killed_one(job: OneJob, expected: str) -> None:
    job.hold()
    first = job.drive()
    job.wait_for_line(first, "reached training.update")
    first.kill()
    second = job.drive()
    said = job.wait_for_line(second, "reached training.update")  # the log from its beginning
    assert "attached" in said
    job.release()
    status, checkpoint, said = finished(second)
    assert (status, checkpoint) == (0, expected), said
    assert len(job.cluster.created_jobs(job.name)) == 1


def test_the_service_of_a_job_that_another_driver_has_just_created_is_left_alone(
    job: OneJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(job.cluster.kubeconfig))
    api = connect(job.settings)
    log = JobLog(job.folder / "job.log", ignore)
    first, second = (Submitter(api, job.submission, log, check_interrupted=lambda: None) for _ in range(2))
    first.submit(job.store)
    [service] = job.cluster.objects("services")
    second.ensure_service(None)  # it has seen no Job a moment ago
    assert job.cluster.objects("services") == [service]
    job.cluster.delete_job(job.name)
    job.cluster.wait_for(lambda: not job.cluster.objects("jobs"))
    second.ensure_service(None)  # and now there is none
    assert [item["metadata"].get("ownerReferences") for item in job.cluster.objects("services")] == [None]


@pytest.mark.slow
def test_two_drivers_of_one_job_both_return_its_result(job: OneJob, expected: str) -> None:
    drivers = [job.drive(), job.drive()]
    ends = [finished(driver) for driver in drivers]
    assert [end[:2] for end in ends] == [(0, expected)] * 2, ends
    assert len(job.cluster.created_jobs(job.name)) == 1


@pytest.mark.slow
def test_an_interrupted_driver_leaves_the_job_running_unless_told_otherwise(job: OneJob, expected: str) -> None:
    job.hold()
    first = job.drive()
    job.wait_for_line(first, "reached training.update")
    first.send_signal(signal.SIGINT)
    status, _, said = finished(first)
    assert status == 130 and f"kubectl -n {job.namespace} delete job {job.name}" in said
    assert len(job.pods()) == 2
    job.change(on_interrupt="delete")
    second = job.drive()
    job.wait_for_line(second, "attached")
    second.send_signal(signal.SIGTERM)
    status, _, said = finished(second)
    assert status == 130 and "deleted" in said
    job.release(*job.pods())
    job.cluster.wait_for(lambda: not job.cluster.objects("jobs"))
    status, checkpoint, said = finished(job.drive())
    assert (status, checkpoint) == (0, expected), said


def test_a_signal_during_the_finalizer_of_a_response_is_not_lost(job: OneJob) -> None:
    """Python drops what a handler raises there; here the answer to the creation of the Job."""
    job.hold()
    program = """if True:
        import os, signal, sys
        from urllib3 import HTTPResponse
        from tests.jobs.driver import main

        def closed(answer):
            if answer._fp._method == "POST" and "jobs" in answer.url:
                os.kill(os.getpid(), signal.SIGTERM)
            return was(answer)

        was = HTTPResponse.closed.fget
        HTTPResponse.closed = property(closed)
        sys.exit(main(sys.argv[1]))
    """
    driver = job.drive(("-c", program))
    status, _, said = finished(driver)
    assert status == 130 and "keeps running in namespace" in said
    assert len(job.cluster.objects("jobs")) == 1


def test_at_a_terminal_the_user_is_asked_about_the_job_that_a_step_left_running(job: OneJob) -> None:
    driver = job.drive()
    job.wait_for_line(driver, "submitted")
    driver.send_signal(signal.SIGINT)
    assert finished(driver)[0] == 130
    assert len(job.cluster.objects("jobs")) == 1
    code = "import sys, pathlib; from progdistill.jobs.kubernetes.launcher import *; "
    code += "ask_about_left(pathlib.Path(sys.argv[1]))"
    terminal, other_end = pty.openpty()
    asking = subprocess.Popen(
        [sys.executable, "-c", code, str(job.folder / "logs")],
        stdin=other_end,
        env={**os.environ, "KUBECONFIG": str(job.cluster.kubeconfig)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.write(terminal, b"delete\n")
    out, err = asking.communicate(timeout=250)
    assert f"Leave {job.name} running" in out and asking.returncode == 0, err
    job.cluster.wait_for(lambda: not job.cluster.objects("jobs"))


@pytest.mark.slow
def test_a_setting_that_is_wrong_fails_at_once_with_what_the_worker_said(job: OneJob) -> None:
    gone: DatasetInfo = job.request.dataset.model_copy(update={"location": str(job.folder / "nowhere")})
    job.request = job.request.model_copy(update={"dataset": gone})
    status, _, said = finished(job.drive())
    assert status == 2
    assert "no longer at" in said.partition("error: ")[2]
    assert job.cluster.objects("jobs")[0]["status"]["failed"] >= 1  # kept to be looked at


@pytest.mark.slow
def test_a_failed_job_shows_its_reason_and_is_replaced_by_the_next_attempt(job: OneJob, expected: str) -> None:
    job.change(backoff_limit=0)
    calm = job.settings
    job.change(env={**job.settings.env, "PROGDISTILL_FAULT": "kill:training.update@1"})
    status, _, said = finished(job.drive())
    assert status == 1
    assert "was killed by SIGKILL" in said and "no newer snapshot after" in said
    first = job.cluster.objects("jobs")[0]["metadata"]["uid"]
    job.settings = calm
    driver = job.drive()
    assert "starting again" in job.wait_for_line(driver, "submitted")
    assert [item["metadata"]["uid"] for item in job.cluster.objects("jobs")] != [first]
    status, checkpoint, said = finished(driver)
    assert (status, checkpoint) == (0, expected), said
