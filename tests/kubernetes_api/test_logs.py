"""Logs, held against the API reference of Pod ("read log of the specified Pod")."""

import datetime
import os
from pathlib import Path

from tests.kubernetes_api import Cluster
from tests.kubernetes_api.clients import Client, log_of
from tests.kubernetes_api.manifests import pod
from tests.kubernetes_api.observing import ended, running
from tests.kubernetes_api.refusals import refusal


def test_output_and_errors_come_in_the_order_they_were_written(cluster: Cluster, client: Client) -> None:
    client.core.create_namespaced_pod("default", pod("x", "echo 1; echo 2 >&2; echo 3; printf 4"))
    ended(cluster)
    assert log_of(client, "x") == "1\n2\n3\n4"


def test_follow_sends_lines_as_they_come_and_ends_with_the_container(
    cluster: Cluster, client: Client, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "go")
    client.core.create_namespaced_pod("default", pod("x", f"echo first; cat {tmp_path}/go; echo last"))
    running(cluster)
    lines = client.core.read_namespaced_pod_log("x", "default", follow=True, _preload_content=False).stream()
    assert next(lines) == b"first\n"
    (tmp_path / "go").write_text("middle\n")
    assert b"".join(lines) == b"middle\nlast\n"


def test_tail_since_and_timestamps_choose_and_date_the_lines(
    cluster: Cluster, client: Client, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "go")
    client.core.create_namespaced_pod("default", pod("x", f"echo 1; echo 2; cat {tmp_path}/go; echo 3"))
    running(cluster)
    cluster.wait_for(lambda: log_of(client, "x") == "1\n2\n")
    between = datetime.datetime.now(datetime.UTC)
    (tmp_path / "go").write_text("")
    ended(cluster)
    assert log_of(client, "x", tail_lines=2) == "2\n3\n"
    assert log_of(client, "x", limit_bytes=3) == "1\n2"
    dated = [line.split(" ") for line in log_of(client, "x", timestamps=True).splitlines()]
    assert [text for _, text in dated] == ["1", "2", "3"]
    times = [datetime.datetime.fromisoformat(when) for when, _ in dated]
    assert times[0] <= times[1] <= between <= times[2]
    later = (times[2] + datetime.timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert _log_since(client, later) == b""
    # Fractions of a second are dropped on the way to the kubelet.
    assert _log_since(client, dated[2][0]).endswith(b"3\n")
    assert _log_since(client, times[0].strftime("%Y-%m-%dT%H:%M:%SZ")) == b"1\n2\n3\n"


def _log_since(client: Client, when: str) -> bytes:
    # The generated client has no since_time, so a caller adds it to the query.
    path = f"/api/v1/namespaces/default/pods/x/log?sinceTime={when}"
    answer = client.core.api_client.call_api(
        path, "GET", auth_settings=["BearerToken"], _preload_content=False, _return_http_data_only=True
    )
    return bytes(answer.data)


def test_there_is_no_log_before_the_container_runs(cluster: Cluster, client: Client) -> None:
    cluster.refuse_image("trainer:1")
    client.core.create_namespaced_pod("default", pod("x", "true"))
    cluster.wait_for(lambda: [e for e in cluster.objects("events") if e["reason"] == "BackOff"])
    status = refusal(lambda: client.core.read_namespaced_pod_log("x", "default"))
    assert (status["code"], status["reason"]) == (400, "BadRequest")
    assert status["message"] == (
        'container "main" in pod "x" is waiting to start: trying and failing to pull image'
    )


def test_other_containers_have_no_log(cluster: Cluster, client: Client) -> None:
    client.core.create_namespaced_pod("default", pod("x", "true"))
    status = refusal(lambda: client.core.read_namespaced_pod_log("x", "default", container="side"))
    assert status["message"] == "container side is not valid for pod x"
