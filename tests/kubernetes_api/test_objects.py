"""Objects, watches and deletion, against "Kubernetes API Concepts" and "Garbage Collection"."""

import json
import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from kubernetes import watch
from kubernetes.client.exceptions import ApiException

from tests.kubernetes_api import Cluster
from tests.kubernetes_api.api import USER
from tests.kubernetes_api.helpers import Client, container, in_phase, job, pod, refusal, running, service


def test_a_new_object_has_a_uid_a_version_and_a_creation_time(client: Client) -> None:
    began = int(time.time())  # the API has whole seconds
    first, second = (client.core.create_namespaced_service("default", service(n)).metadata for n in "ab")
    assert first.uid != second.uid and int(first.resource_version) < int(second.resource_version)
    assert began <= first.creation_timestamp.timestamp() <= time.time()


def test_a_taken_name_is_a_conflict_and_a_missing_object_not_found(client: Client) -> None:
    client.batch.create_namespaced_job("default", job("x", "true"))
    status = refusal(lambda: client.batch.create_namespaced_job("default", job("x", "true")))
    assert (status["code"], status["reason"]) == (409, "AlreadyExists")
    assert status["message"] == 'jobs.batch "x" already exists'
    assert status["details"] == {"name": "x", "group": "batch", "kind": "jobs"}
    status = refusal(lambda: client.batch.read_namespaced_job("y", "default"))
    assert (status["code"], status["reason"]) == (404, "NotFound")
    status = refusal(lambda: client.batch.create_namespaced_job("nowhere", job("x", "true")))
    assert status["message"] == 'namespaces "nowhere" not found'


def test_a_merge_patch_changes_what_it_names_and_removes_nulls(cluster: Cluster, client: Client) -> None:
    """RFC 7396, as the launcher sends it."""
    client.core.create_namespaced_service("default", service("x", {"a": "1", "b": "2"}))
    body = {"metadata": {"labels": {"a": None, "c": "3"}}}
    headers = {"Accept": "application/json", "Content-Type": "application/merge-patch+json"}
    client.core.api_client.call_api(
        "/api/v1/namespaces/default/services/x", "PATCH", body=body, header_params=headers,
        auth_settings=["BearerToken"], _preload_content=False,
    )  # fmt: skip
    [patched] = cluster.objects("services")
    assert patched["metadata"]["labels"] == {"b": "2", "c": "3"} and patched["spec"]["clusterIP"] == "None"


def _policy(action: str, **rule: Any) -> dict[str, Any]:
    return {"rules": [{"action": action, **rule}]}


def _codes(*values: int, name: str = "main") -> dict[str, Any]:
    return {"onExitCodes": {"containerName": name, "operator": "In", "values": list(values)}}


_GPU = {"containers": [container("true", {"resources": {"requests": {"nvidia.com/gpu": 1}}})]}


@pytest.mark.parametrize(
    ("manifest", "field", "message"),
    [
        (job("Not_a_name", "true"), "metadata.name", "a lowercase RFC 1123 subdomain must consist of"),
        (job("x" * 64, "true"), "spec.template.labels", "must be no more than 63 bytes"),
        (job("a.b", "true"), "metadata.name", "will not able to create pod with invalid DNS label"),
        (job("x" * 63, "true"), "metadata.name", "must be no more than 63 characters"),
        (job("x", "true", pod_spec=_GPU), "spec.template.spec.containers[0].resources.limits", "Limit must be set"),
        (
            job("x", "true", podFailurePolicy=_policy("Ignore")),
            "spec.podFailurePolicy.rules[0]",
            "specifying one of OnExitCodes and OnPodConditions is required",
        ),
        (
            job("x", "true", podFailurePolicy=_policy("Ignore", **_codes(75, name="other"))),
            "spec.podFailurePolicy.rules[0].onExitCodes.containerName",
            "must be one of the container",
        ),
        (
            job("x", "true", podFailurePolicy=_policy("Ignore", **_codes(130, 75))),
            "spec.podFailurePolicy.rules[0].onExitCodes.values",
            "must be ordered",
        ),
    ],
)
def test_a_broken_job_is_invalid_with_the_field_named(
    client: Client, manifest: dict[str, Any], field: str, message: str
) -> None:
    """pkg/apis/batch/validation and pkg/apis/core/validation."""
    status = refusal(lambda: client.batch.create_namespaced_job("default", manifest))
    assert (status["code"], status["reason"]) == (422, "Invalid")
    assert status["details"]["causes"][0]["field"] == field
    assert message in status["message"]


@pytest.mark.parametrize("name", ["0abc", "a.b", "x" * 64])
def test_a_service_name_begins_with_a_letter_and_is_short(client: Client, name: str) -> None:
    """ "Object Names and IDs": RFC 1035 label names."""
    status = refusal(lambda: client.core.create_namespaced_service("default", service(name)))
    assert (status["code"], status["details"]["causes"][0]["field"]) == (422, "metadata.name")


def test_unknown_fields_are_bad_requests(client: Client) -> None:
    """API Concepts, "Field validation" (Strict)."""
    status = refusal(lambda: client.batch.create_namespaced_job("default", job("x", "true", paralelism=2)))
    assert (status["code"], status["reason"]) == (400, "BadRequest")
    assert 'strict decoding error: unknown field "spec.paralelism"' in status["message"]


def test_a_dry_run_checks_and_keeps_nothing(cluster: Cluster, client: Client) -> None:
    answer = client.core.create_namespaced_pod("default", pod("x", "true"), dry_run="All")
    assert answer.metadata.uid and not cluster.objects("pods")
    unknown = pod("x", "true", serviceAccountName="nobody")
    why = 'pods "x" is forbidden: error looking up service account default/nobody: serviceaccount "nobody" not found'
    refused = refusal(lambda: client.core.create_namespaced_pod("default", unknown, dry_run="All"))
    assert refused["message"] == why
    client.core.create_namespaced_service("default", service("taken"))
    again = refusal(lambda: client.core.create_namespaced_service("default", service("taken"), dry_run="All"))
    assert again["reason"] == "AlreadyExists"


def test_what_is_left_out_is_refused_with_501(client: Client) -> None:
    create = client.batch.create_namespaced_job
    for request in (
        lambda: client.core.list_namespaced_config_map("default"),
        lambda: client.core.list_namespaced_pod("default", label_selector="a!=b"),
        lambda: create("default", job("x", "true", backoffLimitPerIndex=1)),
        lambda: create("default", job("x", "true", completionMode="NonIndexed")),
        lambda: create("default", job("x", "true", pod_spec={"nodeSelector": {"zone": "a"}})),
    ):
        assert refusal(request)["code"] == 501


def test_a_request_without_the_token_is_unauthorized(cluster: Cluster) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{cluster.url}/api/v1/namespaces/default/pods")
    assert caught.value.code == 401
    caught.value.close()


def test_what_is_not_allowed_is_forbidden_in_these_words(cluster: Cluster, client: Client) -> None:
    """ "Using RBAC Authorization": a subresource and watching want permissions of their own."""
    cluster.allow_only({"jobs.batch": {"get", "list"}, "pods": {"get"}})
    status = refusal(lambda: client.batch.create_namespaced_job("default", job("x", "true")))
    assert (status["code"], status["reason"]) == (403, "Forbidden")
    assert status["message"] == (
        f'jobs.batch is forbidden: User "{USER}" cannot create resource "jobs" in API group "batch"'
        ' in the namespace "default"'
    )
    status = refusal(lambda: client.core.read_namespaced_pod_log("x", "default"))
    assert 'cannot get resource "pods/log" in API group ""' in status["message"]
    client.batch.list_namespaced_job("default")
    status = refusal(lambda: client.batch.list_namespaced_job("default", watch=True))
    assert 'cannot watch resource "jobs"' in status["message"]


def test_a_user_can_ask_what_is_allowed(cluster: Cluster, client: Client) -> None:
    """SelfSubjectAccessReview."""

    def allowed(**attributes: Any) -> bool:
        spec = {"resourceAttributes": {"namespace": "default", **attributes}}
        return bool(client.authorization.create_self_subject_access_review({"spec": spec}).status.allowed)

    cluster.allow_only({"jobs.batch": {"create"}, "pods/log": {"get"}})
    assert allowed(verb="create", group="batch", resource="jobs")
    assert not allowed(verb="delete", group="batch", resource="jobs")
    assert allowed(verb="get", resource="pods", subresource="log")
    assert not allowed(verb="get", resource="pods")


def test_a_selector_selects_by_label(client: Client) -> None:
    for name, labels in {"web": {"app": "web"}, "api": {"app": "api", "tier": "back"}, "bare": {}}.items():
        client.core.create_namespaced_service("default", service(name, labels))
    for selector, names in {"app=web": ["web"], "app=api,tier=back": ["api"], "app=none": []}.items():
        found = client.core.list_namespaced_service("default", label_selector=selector).items
        assert [item.metadata.name for item in found] == names


def _watched(client: Client, **options: Any) -> list[tuple[str, str]]:
    stream = watch.Watch().stream(client.core.list_namespaced_service, "default", **{"timeout_seconds": 0, **options})
    return [(event["type"], event["object"].metadata.name) for event in stream]


def test_a_watch_from_a_list_shows_what_came_after_it(client: Client) -> None:
    """Under a selector, objects that never match are not shown."""
    client.core.create_namespaced_service("default", service("before", {"wanted": "yes"}))
    version = client.core.list_namespaced_service("default").metadata.resource_version
    for name, wanted in {"x": "yes", "y": "no"}.items():
        client.core.create_namespaced_service("default", service(name, {"wanted": wanted}))
    client.core.delete_namespaced_service("x", "default")
    seen = _watched(client, resource_version=version, label_selector="wanted=yes")
    assert seen == [("ADDED", "x"), ("DELETED", "x")]
    assert sorted(_watched(client)) == [("ADDED", "before"), ("ADDED", "y")]  # without a version: all there is


def test_an_expired_version_is_an_error_event_of_410(cluster: Cluster, client: Client) -> None:
    """The response is 200, the Status comes in the stream, and a new list gives a version that works."""
    version = client.core.list_namespaced_service("default").metadata.resource_version
    cluster.faults.expire_watches()
    with pytest.raises(ApiException, match="too old resource version"):
        _watched(client, resource_version=version)
    version = client.core.list_namespaced_service("default").metadata.resource_version
    client.core.create_namespaced_service("default", service("x"))
    assert _watched(client, resource_version=version) == [("ADDED", "x")]


def test_a_running_watch_expires_too(cluster: Cluster, client: Client) -> None:
    client.core.create_namespaced_service("default", service("x"))
    stream = watch.Watch().stream(client.core.list_namespaced_service, "default", resource_version="1")
    assert next(stream)["object"].metadata.name == "x"
    cluster.faults.expire_watches()
    with pytest.raises(ApiException, match="Expired"):
        next(stream)


def test_bookmarks_bring_the_version_up_to_date(client: Client) -> None:
    version = client.core.list_namespaced_service("default").metadata.resource_version
    client.core.create_namespaced_secret("default", {"metadata": {"name": "other"}})
    answer = client.core.list_namespaced_service(
        "default", watch=True, timeout_seconds=1, _preload_content=False,
        resource_version=version, allow_watch_bookmarks=True,
    )  # fmt: skip
    [event] = [json.loads(line) for line in b"".join(answer.stream()).splitlines()]
    assert event["type"] == "BOOKMARK" and int(event["object"]["metadata"]["resourceVersion"]) > int(version)


def test_foreground_deletion_keeps_the_job_until_its_pods_are_gone(
    cluster: Cluster, client: Client, tmp_path: Path
) -> None:
    """ "Cascading deletion"; what else the Job owns goes too."""
    os.mkfifo(tmp_path / "go")
    command = f"trap 'cat {tmp_path}/go; exit 1' TERM; touch {tmp_path}/up; while :; do sleep 0.05; done"
    owner = client.batch.create_namespaced_job("default", job("x", command))
    client.core.create_namespaced_service("default", service("owned", owner=owner))
    cluster.wait_for((tmp_path / "up").exists)
    client.batch.delete_namespaced_job("x", "default", body={"propagationPolicy": "Foreground"})
    left = client.batch.read_namespaced_job("x", "default").metadata
    assert left.deletion_timestamp and left.finalizers == ["foregroundDeletion"]
    cluster.wait_for(lambda: cluster.objects("pods")[0]["metadata"].get("deletionTimestamp"))
    status = refusal(lambda: client.batch.create_namespaced_job("default", job("x", "true")))
    assert status["message"] == 'object is being deleted: jobs.batch "x" already exists'
    (tmp_path / "go").write_text("")
    cluster.wait_for(lambda: not any(cluster.objects(kind) for kind in ("jobs", "pods", "services")))


def test_background_deletion_deletes_the_job_at_once_and_its_dependents_after(cluster: Cluster, client: Client) -> None:
    owner = client.batch.create_namespaced_job("default", job("x", "exec sleep 60"))
    running(cluster)
    client.batch.delete_namespaced_job("x", "default", body={"propagationPolicy": "Background"})
    assert refusal(lambda: client.batch.read_namespaced_job("x", "default"))["code"] == 404
    client.core.create_namespaced_service("default", service("late", owner=owner))
    cluster.wait_for(lambda: not cluster.objects("pods") and not cluster.objects("services"))


def test_a_delete_with_another_uid_is_refused(cluster: Cluster, client: Client) -> None:
    client.batch.create_namespaced_job("default", job("x", "true", suspend=True))
    body = {"preconditions": {"uid": "another"}, "propagationPolicy": "Foreground"}
    status = refusal(lambda: client.batch.delete_namespaced_job("x", "default", body=body))
    assert (status["code"], status["reason"]) == (409, "Conflict")
    assert "Precondition failed: UID in precondition: another, UID in object meta: " in status["message"]
    assert in_phase(cluster, "Running") == []
