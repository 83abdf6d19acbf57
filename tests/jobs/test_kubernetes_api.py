"""Retries and credentials of API requests, against a real server."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from progdistill.config.cluster import ClusterSettings
from progdistill.errors import TransientError, UsageError
from progdistill.jobs.kubernetes.api import ClusterApi, RetryLaterError, connect, retry
from tests.kubernetes_api import Cluster, running_cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path / "cluster") as running:
        yield running


@pytest.fixture
def api(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> ClusterApi:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    return connect(ClusterSettings(api_timeout_seconds=2))


def test_a_server_that_asks_for_no_pause_is_not_asked_in_a_hurry(cluster: Cluster, api: ClusterApi) -> None:
    cluster.faults.answer("GET", "/pods", 429, times=100, retry_after_seconds=0)
    with pytest.raises(TransientError, match="429"):
        api.get(api.path("v1", "pods"))
    assert 2 <= len(cluster.requests) <= 6


@pytest.mark.parametrize(
    "said", ["1.5", "soon", "-1", "nan", "inf", "Thu, 01 Jan 2026 00:00:00 GMT", "Thu, 32 Foo", None]
)
def test_any_word_of_the_server_on_when_to_come_again_is_a_pause(
    said: str | None, cluster: Cluster, api: ClusterApi
) -> None:
    cluster.faults.answer("GET", "/pods", 503, retry_after_seconds=said)
    assert api.get(api.path("v1", "pods")) is not None
    assert [request.status for request in cluster.requests] == [503, 200]


def test_a_pause_that_is_asked_for_is_kept() -> None:
    began = time.monotonic()
    faults = iter([RetryLaterError("429", 0.6)])

    def call() -> float:
        for fault in faults:
            raise fault
        return time.monotonic() - began

    assert retry(call, threading.Event(), 5.0) >= 0.6


def test_a_token_that_expires_is_read_again(cluster: Cluster, api: ClusterApi) -> None:
    cluster.renew_token("second")
    assert api.get(api.path("v1", "pods")) is not None
    cluster.renew_token("third")
    assert list(api.lines(api.path("v1", "pods"), read_seconds=60, watch="true", timeoutSeconds=1)) == []
    assert [request.status for request in cluster.requests] == [401, 200, 401, 200]


def test_credentials_that_are_refused_when_read_anew_are_the_users_to_renew(cluster: Cluster, api: ClusterApi) -> None:
    stale = cluster.kubeconfig.read_text()
    cluster.renew_token("another")
    cluster.kubeconfig.write_text(stale)
    with pytest.raises(UsageError, match="renew them"):
        api.get(api.path("v1", "pods"))
    assert [request.status for request in cluster.requests] == [401, 401]


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_has_just_started_may_not_know_its_users_yet(
    status: int, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    patient = connect(ClusterSettings(api_timeout_seconds=60))
    cluster.faults.answer("GET", "/pods", status, times=4)
    cluster.stop_answering()
    back = threading.Timer(0.5, cluster.answer_again)
    back.start()
    assert patient.get(patient.path("v1", "pods")) is not None
    back.join()


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_was_always_there_means_what_it_refuses(status: int, cluster: Cluster, api: ClusterApi) -> None:
    cluster.faults.answer("GET", "/pods", status, times=100)
    with pytest.raises(UsageError):
        api.get(api.path("v1", "pods"))
    assert len(cluster.requests) <= 2


def test_a_user_without_a_home_has_no_kubeconfig(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number without an entry, as which a container may run."""

    def no_entry(_: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", no_entry)
    monkeypatch.delenv("HOME", raising=False)
    with pytest.raises(UsageError, match="no cluster is configured"):
        connect(ClusterSettings())
