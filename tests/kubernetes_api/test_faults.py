"""Injected faults, and a stopped cluster leaves nothing behind."""

import os
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import urllib3
from kubernetes.client.exceptions import ApiException

from tests.kubernetes_api import Cluster, running_cluster
from tests.kubernetes_api.helpers import Client, client_of, conditions, finished, job, pod, refusal, running, service


@pytest.mark.parametrize(
    ("code", "reason"),
    [(403, "Forbidden"), (410, "Expired"), (429, "TooManyRequests"), (500, "InternalError"), (504, "Timeout")],
)
def test_an_answer_of_a_status_is_given_to_the_next_requests(
    cluster: Cluster, client: Client, code: int, reason: str
) -> None:
    cluster.faults.answer("GET", "/services$", code, times=2, retry_after_seconds=7)
    for _ in range(2):
        with pytest.raises(ApiException) as caught:
            client.core.list_namespaced_service("default")
        assert f'"reason": "{reason}"' in caught.value.body and caught.value.headers["Retry-After"] == "7"
    assert client.core.list_namespaced_service("default").items == []


@pytest.mark.parametrize("after_work", [False, True])
def test_a_lost_reply_is_one_whose_work_was_done(cluster: Cluster, client: Client, after_work: bool) -> None:
    cluster.faults.reset("POST", "/services$", after_work=after_work)
    with pytest.raises(urllib3.exceptions.ProtocolError, match="reset by peer"):
        client.core.create_namespaced_service("default", service("x"))
    assert [item["metadata"]["name"] for item in cluster.objects("services")] == (["x"] if after_work else [])


def test_a_watch_breaks_off_within_an_event(cluster: Cluster, client: Client) -> None:
    client.core.create_namespaced_service("default", service("x"))
    cluster.faults.cut_stream("watch=True", after_bytes=10)
    answer = client.core.list_namespaced_service("default", watch=True, _preload_content=False)
    received = b""
    with pytest.raises(urllib3.exceptions.ProtocolError):
        for piece in answer.stream():
            received += piece
    assert received == b'{"type": "ADDED"'[:10]


def test_a_followed_log_breaks_off_after_a_line(cluster: Cluster, client: Client) -> None:
    client.core.create_namespaced_pod("default", pod("x", "echo 1; echo 2; exec sleep 60"))
    running(cluster)
    cluster.faults.cut_stream("/log", after_events=1)
    answer = client.core.read_namespaced_pod_log("x", "default", follow=True, _preload_content=False)
    received = []
    with pytest.raises(urllib3.exceptions.ProtocolError):
        for piece in answer.stream():
            received.append(piece)
    assert received == [b"1\n"]


def test_jobs_go_on_while_the_server_does_not_answer(cluster: Cluster, client: Client, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    client.batch.create_namespaced_job("default", job("x", f"cat {tmp_path}/go"))
    address = cluster.url
    watching = client.batch.list_namespaced_job("default", watch=True, _preload_content=False).stream()
    next(watching)
    cluster.stop_answering()
    with pytest.raises(urllib3.exceptions.ProtocolError):
        list(watching)
    with pytest.raises(urllib3.exceptions.HTTPError, match="refused"):
        client.batch.read_namespaced_job("x", "default")
    with socket.socket() as another, pytest.raises(OSError, match="in use"):
        another.bind(("127.0.0.1", urlsplit(address).port))
    (tmp_path / "go").write_text("")
    finished(cluster)
    cluster.answer_again()
    assert cluster.url == address
    assert client.batch.read_namespaced_job("x", "default").status.succeeded == 1


def test_a_job_deleted_by_somebody_else_is_gone(cluster: Cluster, client: Client) -> None:
    client.batch.create_namespaced_job("default", job("x", "exec sleep 60"))
    cluster.delete_job("x")
    assert refusal(lambda: client.batch.read_namespaced_job("x", "default"))["code"] == 404


def test_requests_are_on_record(cluster: Cluster, client: Client) -> None:
    client.core.create_namespaced_service("default", service("x"))
    refusal(lambda: client.core.read_namespaced_service("y", "default"))
    recorded = [(request.method, request.path, request.status) for request in cluster.requests]
    path = "/api/v1/namespaces/default/services"
    assert recorded == [("POST", path, 201), ("GET", f"{path}/y", 404)]


def test_waiting_for_what_never_comes_says_what_there_is(cluster: Cluster, client: Client) -> None:
    client.batch.create_namespaced_job("default", job("x", "true", suspend=True))
    cluster.wait_for(lambda: conditions(cluster.objects("jobs")[0]))
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match="JobSuspended"):
        cluster.wait_for(lambda: cluster.objects("pods"), timeout_seconds=0.3)
    assert time.monotonic() - begin >= 0.3


def test_nothing_is_left_of_a_cluster(tmp_path: Path) -> None:
    threads = set(threading.enumerate())
    with running_cluster(tmp_path) as cluster:
        client = client_of(cluster)
        client.core.create_namespaced_pod("default", pod("x", "trap '' TERM; sleep 60 & sleep 60"))
        running(cluster)
        watching = client.core.list_namespaced_pod("default", watch=True, _preload_content=False)
        following = client.core.read_namespaced_pod_log("x", "default", follow=True, _preload_content=False)
        port = int(cluster.url.rpartition(":")[2])
    assert watching is not None and following is not None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    assert {thread for thread in threading.enumerate() if thread.is_alive()} <= threads
    assert not [entry for entry in os.listdir("/proc") if entry.isdigit() and _works_in(entry, str(tmp_path))]


def _works_in(pid: str, folder: str) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/cwd").startswith(folder)
    except OSError:
        return False
