"""Watches, held against "Kubernetes API Concepts": "Efficient detection of changes", "410 Gone responses"."""

import json
from typing import Any

import pytest
from kubernetes import watch
from kubernetes.client.exceptions import ApiException

from tests.kubernetes_api import Cluster
from tests.kubernetes_api.clients import Client
from tests.kubernetes_api.manifests import config_map
from tests.kubernetes_api.refusals import refusal


def _watched(client: Client, **options: Any) -> list[tuple[str, str]]:
    options = {"timeout_seconds": 0, **options}
    stream = watch.Watch().stream(client.core.list_namespaced_config_map, "default", **options)
    return [(event["type"], event["object"].metadata.name) for event in stream]


def _raw_events(client: Client, **options: Any) -> list[dict[str, Any]]:
    answer = client.core.list_namespaced_config_map(
        "default", watch=True, timeout_seconds=1, _preload_content=False, **options
    )
    return [json.loads(line) for line in b"".join(answer.stream()).splitlines()]


def test_a_watch_from_a_list_shows_what_came_after_it(client: Client) -> None:
    client.core.create_namespaced_config_map("default", config_map("before"))
    version = client.core.list_namespaced_config_map("default").metadata.resource_version
    client.core.create_namespaced_config_map("default", config_map("x"))
    client.core.patch_namespaced_config_map("x", "default", {"data": {"key": "2"}})
    client.core.delete_namespaced_config_map("x", "default")
    seen = _watched(client, resource_version=version)
    assert seen == [("ADDED", "x"), ("MODIFIED", "x"), ("DELETED", "x")]


def test_a_watch_without_a_version_begins_with_what_there_is(client: Client) -> None:
    """ "Get State and Start at Any": synthetic ADDED events."""
    client.core.create_namespaced_config_map("default", config_map("x"))
    assert _watched(client) == [("ADDED", "x")]


def test_under_a_selector_objects_come_and_go_with_their_labels(client: Client) -> None:
    version = client.core.list_namespaced_config_map("default").metadata.resource_version
    client.core.create_namespaced_config_map("default", config_map("x"))
    for value in ("yes", "yes again", "no"):
        patch = {"metadata": {"labels": {"wanted": value.split()[0]}}, "data": {"key": value}}
        client.core.patch_namespaced_config_map("x", "default", patch)
    seen = _watched(client, resource_version=version, label_selector="wanted=yes")
    assert seen == [("ADDED", "x"), ("MODIFIED", "x"), ("DELETED", "x")]


def test_an_expired_version_is_an_error_event_of_410(cluster: Cluster, client: Client) -> None:
    """The answer is 200, the Status comes in the stream, and a new list gives a version that works."""
    version = client.core.list_namespaced_config_map("default").metadata.resource_version
    cluster.faults.expire_watches()
    [event] = _raw_events(client, resource_version=version)
    assert event["type"] == "ERROR"
    assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")
    assert event["object"]["message"].startswith("too old resource version: ")
    with pytest.raises(ApiException, match="Expired"):
        _watched(client, resource_version=version)
    version = client.core.list_namespaced_config_map("default").metadata.resource_version
    client.core.create_namespaced_config_map("default", config_map("x"))
    assert _watched(client, resource_version=version) == [("ADDED", "x")]


def test_a_running_watch_expires_too(cluster: Cluster, client: Client) -> None:
    client.core.create_namespaced_config_map("default", config_map("x"))
    stream = watch.Watch().stream(client.core.list_namespaced_config_map, "default", resource_version="1")
    assert next(stream)["object"].metadata.name == "x"
    cluster.faults.expire_watches()
    with pytest.raises(ApiException, match="Expired"):
        next(stream)


def test_bookmarks_bring_the_version_up_to_date(client: Client) -> None:
    """ "Watch bookmarks": the object of a bookmark has only a resourceVersion."""
    version = client.core.list_namespaced_config_map("default").metadata.resource_version
    client.core.create_namespaced_secret("default", {"metadata": {"name": "other"}})
    events = _raw_events(client, resource_version=version, allow_watch_bookmarks=True)
    assert [event["type"] for event in events] == ["BOOKMARK"]
    assert int(events[0]["object"]["metadata"]["resourceVersion"]) > int(version)


def test_a_list_from_the_future_is_refused(client: Client) -> None:
    status = refusal(lambda: client.core.list_namespaced_config_map("default", resource_version="99999"))
    assert (status["code"], status["reason"]) == (504, "Timeout")
    assert status["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"
