"""The faults that tests of others inject: each does what its name says, to the real client."""

import os
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
import urllib3
from kubernetes.client.exceptions import ApiException

from tests.kubernetes_api import Cluster
from tests.kubernetes_api.clients import Client
from tests.kubernetes_api.manifests import config_map, job, pod
from tests.kubernetes_api.observing import conditions, finished, pods_in_phase
from tests.kubernetes_api.refusals import refusal


@pytest.fixture
def impatient(client: Client) -> Client:
    """A client that does not repeat requests by itself."""
    client.core.api_client.rest_client.pool_manager.connection_pool_kw["retries"] = False
    return client


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (403, "Forbidden"),
        (409, "Conflict"),
        (410, "Expired"),
        (429, "TooManyRequests"),
        (500, "InternalError"),
        (503, "ServiceUnavailable"),
        (504, "Timeout"),
    ],
)
def test_an_answer_of_a_status_befalls_the_next_requests(
    cluster: Cluster, impatient: Client, code: int, reason: str
) -> None:
    cluster.faults.answer("GET", "/configmaps$", code, times=2)
    for _ in range(2):
        assert refusal(lambda: impatient.core.list_namespaced_config_map("default"))["reason"] == reason
    assert impatient.core.list_namespaced_config_map("default").items == []


def test_a_server_that_is_busy_says_when_to_come_again(cluster: Cluster, impatient: Client) -> None:
    cluster.faults.answer("POST", "/configmaps$", 429, retry_after_seconds=7)
    with pytest.raises(ApiException) as caught:
        impatient.core.create_namespaced_config_map("default", config_map("x"))
    assert caught.value.headers["Retry-After"] == "7"


@pytest.mark.parametrize("after_work", [False, True])
def test_a_lost_reply_is_one_whose_work_was_done(
    cluster: Cluster, impatient: Client, after_work: bool
) -> None:
    cluster.faults.reset("POST", "/configmaps$", after_work=after_work)
    with pytest.raises(urllib3.exceptions.ProtocolError, match="reset by peer"):
        impatient.core.create_namespaced_config_map("default", config_map("x"))
    found = [item.metadata.name for item in impatient.core.list_namespaced_config_map("default").items]
    assert found == (["x"] if after_work else [])


def test_a_stream_breaks_off_in_the_middle(cluster: Cluster, impatient: Client) -> None:
    impatient.core.create_namespaced_config_map("default", config_map("x"))
    cluster.faults.cut_stream("watch=True", after_bytes=10)
    answer = impatient.core.list_namespaced_config_map("default", watch=True, _preload_content=False)
    received = b""
    with pytest.raises(urllib3.exceptions.ProtocolError):
        for piece in answer.stream():
            received += piece
    assert received == b'{"type": "ADDED"'[:10]


def test_a_followed_log_breaks_off_after_a_line(cluster: Cluster, impatient: Client) -> None:
    impatient.core.create_namespaced_pod("default", pod("x", "echo 1; echo 2; exec sleep 60"))
    cluster.wait_for(lambda: pods_in_phase(cluster, "Running"))
    cluster.faults.cut_stream("/log", after_events=1)
    answer = impatient.core.read_namespaced_pod_log("x", "default", follow=True, _preload_content=False)
    received = []
    with pytest.raises(urllib3.exceptions.ProtocolError):
        for piece in answer.stream():
            received.append(piece)
    assert received == [b"1\n"]


def test_jobs_go_on_while_the_server_does_not_answer(
    cluster: Cluster, impatient: Client, tmp_path: Any
) -> None:
    os.mkfifo(tmp_path / "go")
    impatient.batch.create_namespaced_job("default", job("x", f"cat {tmp_path}/go"))
    address = cluster.url
    watching = impatient.batch.list_namespaced_job("default", watch=True, _preload_content=False).stream()
    next(watching)
    cluster.stop_answering()
    with pytest.raises(urllib3.exceptions.ProtocolError):
        list(watching)
    with pytest.raises(urllib3.exceptions.HTTPError, match="refused"):
        impatient.batch.read_namespaced_job("x", "default")
    with socket.socket() as somebody, pytest.raises(OSError, match="in use"):
        somebody.bind(("127.0.0.1", urlsplit(address).port))
    (tmp_path / "go").write_text("")
    finished(cluster)
    cluster.answer_again()
    assert cluster.url == address
    assert impatient.batch.read_namespaced_job("x", "default").status.succeeded == 1


def test_a_job_deleted_by_somebody_else_is_gone(cluster: Cluster, client: Client) -> None:
    client.batch.create_namespaced_job("default", job("x", "exec sleep 60"))
    cluster.delete_job("x")
    assert refusal(lambda: client.batch.read_namespaced_job("x", "default"))["code"] == 404


def test_refused_pods_are_an_event_of_the_job(cluster: Cluster, client: Client) -> None:
    """ "Resource Quotas": the job is there, its pods are not, and an event says why."""
    cluster.refuse_pods(
        "exceeded quota: team, requested: nvidia.com/gpu=8, used: nvidia.com/gpu=8, limited: 8"
    )
    client.batch.create_namespaced_job("default", job("x", "true", indexed=1))
    [event, *_] = cluster.wait_for(
        lambda: [e for e in cluster.objects("events") if e["reason"] == "FailedCreate"]
    )
    assert event["message"].startswith('Error creating: pods "x-0-')
    assert '" is forbidden: exceeded quota: team, ' in event["message"]
    cluster.refuse_pods(None)
    finished(cluster)


def test_requests_are_on_record(cluster: Cluster, impatient: Client) -> None:
    impatient.core.create_namespaced_config_map("default", config_map("x"))
    refusal(lambda: impatient.core.read_namespaced_config_map("y", "default"))
    kept = [(request.method, request.path, request.status) for request in cluster.requests]
    assert kept == [
        ("POST", "/api/v1/namespaces/default/configmaps", 201),
        ("GET", "/api/v1/namespaces/default/configmaps/y", 404),
    ]


def test_waiting_for_what_never_comes_says_what_there_is(cluster: Cluster, client: Client) -> None:
    client.batch.create_namespaced_job("default", job("x", "true", suspend=True))
    cluster.wait_for(lambda: conditions(cluster.objects("jobs")[0]))
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match="JobSuspended"):
        cluster.wait_for(lambda: cluster.objects("pods"), timeout_seconds=0.3)
    assert 0.3 <= time.monotonic() - begin < 60
