"""Cluster failures of every kind while a job of two pods runs: real client, HTTP and processes."""

import os
import re
import time
from pathlib import Path

import pytest

from progdistill.jobs.kubernetes.api import REQUIRED_PERMISSIONS
from progdistill.registry.checkpoint import list_ids
from tests.jobs.kubernetes_jobs import IMAGE, OneJob, cluster, cluster_digits, expected, finished, job
from tests.kubernetes_api import Node

__all__ = ["cluster", "cluster_digits", "expected", "job"]

ALL: dict[str, set[str]] = {}
for one in REQUIRED_PERMISSIONS:
    ALL.setdefault(f"{one.resource}.{one.group}" if one.group else one.resource, set()).add(one.verb)


def require_success(job: OneJob, expected: str, driver: object = None) -> str:
    """The driver returns the very checkpoint that an undisturbed job makes; what it said."""
    status, checkpoint, said = finished(driver or job.drive())  # type: ignore[arg-type]
    assert (status, checkpoint) == (0, expected), said
    return said


def test_a_response_lost_after_the_job_was_created_submits_nothing_twice(job: OneJob, expected: str) -> None:
    job.cluster.faults.reset("POST", "/jobs$", after_work=True)
    job.cluster.faults.answer("POST", "/services$", 503, after_work=True)
    assert "attached" in require_success(job, expected)


@pytest.mark.slow
def test_requests_to_a_busy_server_are_retried(job: OneJob, expected: str) -> None:
    job.cluster.faults.answer("POST", "/jobs$", 429, times=2, retry_after_seconds=1)
    job.cluster.faults.answer("GET", "/pods", 503, times=3)
    job.cluster.faults.answer("GET", "/log", 500, times=2)
    require_success(job, expected)


@pytest.mark.slow
def test_with_the_permissions_of_the_list_and_no_other_a_job_runs(job: OneJob, expected: str) -> None:
    job.cluster.allow_only(ALL)
    require_success(job, expected)


@pytest.mark.parametrize(("resource", "verb"), [("jobs.batch", "create"), ("pods", "list"), ("pods/log", "get")])
def test_a_missing_permission_is_named_with_the_rule_that_grants_it(resource: str, verb: str, job: OneJob) -> None:
    job.cluster.allow_only({**ALL, resource: ALL[resource] - {verb}})
    status, _, said = finished(job.drive())
    group = "batch" if "." in resource else ""
    rule = f'apiGroups: ["{group}"], resources: ["{resource.partition(".")[0]}"], verbs: ["{verb}"]'
    assert status == 2 and rule in said, said


@pytest.mark.slow
def test_an_expired_watch_is_restarted(job: OneJob, expected: str) -> None:
    job.hold()
    driver = job.drive()
    job.wait_for_line(driver, "reached training.update")
    job.cluster.faults.expire_watches()
    job.release()
    require_success(job, expected, driver)


def test_broken_streams_lose_and_repeat_no_line(job: OneJob, expected: str) -> None:
    job.hold()
    job.cluster.faults.cut_stream("watch=true", after_events=1, times=4)
    job.cluster.faults.cut_stream("/log", after_bytes=40, times=3)
    driver = job.drive()
    said = job.wait_for_line(driver, "reached training.update")
    said += job.wait_for_line(driver, "reached training.update")  # the other rank's
    job.release()
    said += require_success(job, expected, driver)
    assert len(re.findall("^reached training.update$", said, re.MULTILINE)) == 1
    assert len(re.findall("^.rank 1. reached training.update$", said, re.MULTILINE)) == 1


@pytest.mark.parametrize(
    "reason",
    [
        "PreemptionByScheduler",
        pytest.param("EvictionByEvictionAPI", marks=pytest.mark.slow),
        pytest.param("TerminationByKubelet", marks=pytest.mark.slow),
    ],
)
def test_an_evicted_pod_costs_no_retry_and_no_number(reason: str, job: OneJob, expected: str) -> None:
    job.hold()
    job.change(backoff_limit=0)
    driver = job.drive()
    job.wait_for_line(driver, "[rank 1] reached training.update")
    evicted = job.pods()[1]
    job.cluster.evict(evicted, reason=reason)
    job.release(evicted)
    said = require_success(job, expected, driver)
    assert "at no cost of a retry" in said


@pytest.mark.slow
def test_a_lost_node_costs_no_retry(job: OneJob, expected: str) -> None:
    job.hold()
    job.change(backoff_limit=0)
    driver = job.drive()
    job.wait_for_line(driver, "[rank 1] reached training.update")
    job.cluster.add_node(Node("node-2"))
    job.cluster.lose_node("node-1")
    job.release()
    require_success(job, expected, driver)


@pytest.mark.slow
def test_a_pod_out_of_memory_is_reported_and_costs_one_retry_of_all(job: OneJob, expected: str) -> None:
    job.hold()
    job.change(backoff_limit=1)
    driver = job.drive()
    job.wait_for_line(driver, "[rank 1] reached training.update")
    job.cluster.oom_kill(job.pods()[1])
    job.release()
    assert "host 1 ran out of memory" in require_success(job, expected, driver)


@pytest.mark.slow
def test_a_pod_out_of_memory_too_often_fails_the_job_with_the_setting_to_raise(job: OneJob) -> None:
    job.hold()
    job.change(backoff_limit=0)
    driver = job.drive()
    job.wait_for_line(driver, "[rank 1] reached training.update")
    job.cluster.oom_kill(job.pods()[1])
    job.release()
    status, _, said = finished(driver)
    error = said.partition("error: ")[2]
    assert status == 1 and "host 1 ran out of memory" in error
    assert "limit is 1 GiB" in error and "--set cluster.train.memory_gib=2" in error


def worker_that_ends(job: OneJob, script: str) -> None:
    """Have every pod run these lines of a shell in place of the worker."""
    folder: Path = job.folder / "bin"
    folder.mkdir()
    (folder / "python").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "python").chmod(0o755)
    job.change(env={**job.settings.env, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"})


@pytest.mark.slow
def test_ranks_lost_again_and_again_without_progress_fail_the_job_with_the_ports_to_open(job: OneJob) -> None:
    """Each is killed before the first snapshot."""
    fault = {"PROGDISTILL_FAULT": "kill:training.update@1"}
    job.change(backoff_limit=0, env={**job.settings.env, **fault})
    status, _, said = finished(job.drive())
    error = said.partition("error: ")[2]
    assert status == 1 and "no newer snapshot after 5 restarts" in error
    assert "allow all TCP ports between them" in error and f":{job.submission.port}" in error


@pytest.mark.slow
def test_pods_evicted_for_their_own_disk_use_are_given_up_with_the_limit_to_raise(job: OneJob) -> None:
    """A worker that saves its snapshot exits with 130, which the Job does not count."""
    worker_that_ends(job, "trap 'exit 130' TERM; echo up; while :; do sleep 0.1; done")
    job.change(backoff_limit=1)
    driver = job.drive()
    for evictions in (1, 2):
        running = job.cluster.wait_for(lambda: job.pods("Running"))
        job.cluster.exceed_disk(running[-1])
        job.cluster.wait_for(lambda evictions=evictions: len(job.pods("Failed")) == evictions)
    status, _, said = finished(driver)
    assert status == 1 and "disk_gib=2" in said.partition("error: ")[2]
    job.cluster.wait_for(lambda: not job.cluster.objects("jobs"))


def test_an_image_that_cannot_be_pulled_is_named_and_given_up(job: OneJob) -> None:
    job.cluster.refuse_image(IMAGE)
    job.change(image_pull_timeout_seconds=3)
    status, _, said = finished(job.drive())
    assert status == 2
    assert IMAGE in said.partition("error: ")[2] and "host 0 is waiting" in said
    job.cluster.wait_for(lambda: not job.cluster.objects("jobs"))


def test_a_lack_of_gpus_is_said_within_half_a_minute(job: OneJob) -> None:
    gpus = {"accelerator": "nvidia.com/gpu", "accelerators_per_host": 1}
    job.change(train={**job.settings.train.model_dump(), **gpus})
    driver = job.drive()
    job.wait_for_line(driver, "submitted")
    began = time.monotonic()
    said = job.wait_for_line(driver, "is waiting for a node")
    assert "no node has enough nvidia.com/gpu free" in said
    assert time.monotonic() - began < 30
    driver.terminate()
    assert finished(driver)[0] == 130


def test_an_exceeded_quota_is_passed_on(job: OneJob) -> None:
    job.cluster.refuse_pods("exceeded quota: team, requested: pods=2, used: pods=8, limited: pods=8")
    driver = job.drive()
    said = job.wait_for_line(driver, "exceeded quota: team")
    assert "FailedCreate" in said
    driver.terminate()
    assert finished(driver)[0] == 130


def test_a_suspended_job_says_in_which_queue_it_stands(job: OneJob) -> None:
    job.change(train={**job.settings.train.model_dump(), "queue": "research"})
    driver = job.drive()
    job.wait_for_line(driver, "queued in research")
    driver.terminate()
    assert finished(driver)[0] == 130


@pytest.mark.slow
def test_a_job_deleted_by_someone_else_is_said_so_and_starts_again_when_asked(job: OneJob, expected: str) -> None:
    job.hold()
    driver = job.drive()
    job.wait_for_line(driver, "reached training.update")
    pods = job.pods()
    job.cluster.delete_job(job.name)
    job.release(*pods)
    status, _, said = finished(driver)
    assert status == 1 and "deleted by someone else" in said
    require_success(job, expected)


@pytest.mark.slow
def test_a_second_pod_of_one_host_disturbs_nothing(job: OneJob, expected: str) -> None:
    job.hold()
    driver = job.drive()
    job.wait_for_line(driver, "[rank 1] reached training.update")
    job.cluster.duplicate(job.pods()[1])
    job.release()
    require_success(job, expected, driver)
    assert list_ids(job.store) == [expected]


@pytest.mark.slow
def test_a_server_that_is_away_for_a_minute_fails_no_job(job: OneJob, expected: str) -> None:
    job.hold()
    driver = job.drive()
    job.wait_for_line(driver, "reached training.update")
    job.cluster.stop_answering()
    job.release()
    time.sleep(60)  # the outage itself
    job.cluster.answer_again()
    require_success(job, expected, driver)


@pytest.mark.slow
def test_a_server_that_stays_away_ends_the_driver_but_not_the_job(job: OneJob, expected: str) -> None:
    job.hold()
    job.change(api_timeout_seconds=2)
    driver = job.drive()
    job.wait_for_line(driver, "reached training.update")
    job.cluster.stop_answering()
    status, _, said = finished(driver)
    assert status == 1 and "keeps running" in said and "attaches to it" in said
    job.cluster.answer_again()
    job.release()
    require_success(job, expected)
