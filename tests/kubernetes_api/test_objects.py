"""Objects and verbs, held against "Kubernetes API Concepts" and "API conventions" (Response Status Kind)."""

import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.kubernetes_api import Cluster
from tests.kubernetes_api.clients import Client
from tests.kubernetes_api.manifests import config_map, job
from tests.kubernetes_api.refusals import refusal


def test_a_new_object_has_a_uid_a_version_and_a_creation_time(client: Client) -> None:
    """API conventions, "Metadata"."""
    began = int(time.time())  # the API has whole seconds
    first = client.core.create_namespaced_config_map("default", config_map("first")).metadata
    second = client.core.create_namespaced_config_map("default", config_map("second")).metadata
    assert first.uid != second.uid
    assert int(first.resource_version) < int(second.resource_version)
    assert began <= first.creation_timestamp.timestamp() <= time.time()


def test_a_taken_name_is_a_conflict(client: Client) -> None:
    client.batch.create_namespaced_job("default", job("x", "true"))
    status = refusal(lambda: client.batch.create_namespaced_job("default", job("x", "true")))
    assert (status["code"], status["reason"]) == (409, "AlreadyExists")
    assert status["message"] == 'jobs.batch "x" already exists'
    assert status["details"] == {"name": "x", "group": "batch", "kind": "jobs"}


def test_a_missing_object_is_not_found(client: Client) -> None:
    status = refusal(lambda: client.core.read_namespaced_pod("x", "default"))
    assert (status["code"], status["reason"]) == (404, "NotFound")
    assert status["message"] == 'pods "x" not found'
    assert status["details"] == {"name": "x", "kind": "pods"}


def test_an_update_of_an_old_version_is_a_conflict(client: Client) -> None:
    """API Concepts, "Resource versions": optimistic concurrency."""
    old = client.core.create_namespaced_config_map("default", config_map("x"))
    client.core.patch_namespaced_config_map("x", "default", {"data": {"other": "1"}})
    old.data = {"key": "changed"}
    status = refusal(lambda: client.core.replace_namespaced_config_map("x", "default", old))
    assert (status["code"], status["reason"]) == (409, "Conflict")
    assert status["message"] == (
        'Operation cannot be fulfilled on configmaps "x": the object has been modified;'
        " please apply your changes to the latest version and try again"
    )


def test_a_merge_patch_changes_what_it_names_and_removes_nulls(client: Client) -> None:
    """RFC 7396."""
    client.core.create_namespaced_config_map("default", config_map("x", {"a": "1", "b": "2"}))
    patch = {"metadata": {"labels": {"a": None, "c": "3"}}}
    patched = client.core.patch_namespaced_config_map("x", "default", patch)
    assert patched.metadata.labels == {"b": "2", "c": "3"}
    assert patched.data == {"key": "value"}


def test_only_a_change_of_the_spec_raises_the_generation(client: Client) -> None:
    """API conventions: generation is "a specific generation of the desired state"."""
    client.batch.create_namespaced_job("default", job("x", "true", suspend=True))
    labeled = client.batch.patch_namespaced_job("x", "default", {"metadata": {"labels": {"a": "1"}}})
    resized = client.batch.patch_namespaced_job("x", "default", {"spec": {"parallelism": 2}})
    assert (labeled.metadata.generation, resized.metadata.generation) == (1, 2)


def test_the_status_subresource_changes_nothing_but_the_status(client: Client) -> None:
    client.batch.create_namespaced_job("default", job("x", "true", suspend=True))
    patch = {"status": {"failed": 3}, "spec": {"parallelism": 5}}
    patched = client.batch.patch_namespaced_job_status("x", "default", patch)
    assert (patched.status.failed, patched.spec.parallelism) == (3, 1)
    patched = client.batch.patch_namespaced_job("x", "default", {"status": {"failed": 9}})
    assert patched.status.failed == 3


def test_a_queue_places_a_suspended_job(cluster: Cluster, client: Client) -> None:
    """ "Jobs", "Mutable Scheduling Directives"."""
    client.batch.create_namespaced_job("default", job("x", "true", suspend=True))
    place = {"spec": {"suspend": False, "template": {"spec": {"nodeSelector": {"zone": "a"}}}}}
    client.batch.patch_namespaced_job("x", "default", place)
    [pod] = cluster.wait_for(lambda: cluster.objects("pods"))
    assert pod["spec"]["nodeSelector"] == {"zone": "a"}


def test_a_dry_run_checks_but_stores_nothing(client: Client) -> None:
    """API Concepts, "Dry-run"."""
    made = client.batch.create_namespaced_job("default", job("x", "true"), dry_run="All")
    assert made.spec.backoff_limit == 6
    assert client.batch.list_namespaced_job("default").items == []


def test_a_template_never_changes(client: Client) -> None:
    client.batch.create_namespaced_job("default", job("x", "true", suspend=True))
    patch = {"spec": {"template": {"spec": {"hostname": "other"}}}}
    status = refusal(lambda: client.batch.patch_namespaced_job("x", "default", patch))
    assert (status["code"], status["reason"]) == (422, "Invalid")
    assert status["message"].endswith("field is immutable")
    assert status["details"]["causes"][0]["field"] == "spec.template"


def _without_restart_policy() -> dict[str, Any]:
    broken = job("x", "true")
    del broken["spec"]["template"]["spec"]["restartPolicy"]
    return broken


def _gpu_without_limit() -> dict[str, Any]:
    return job("x", "true", pod={"container": {"resources": {"requests": {"nvidia.com/gpu": 1}}}})


@pytest.mark.parametrize(
    ("manifest", "field", "message"),
    [
        (job("Not_a_name", "true"), "metadata.name", "a lowercase RFC 1123 subdomain must consist of"),
        (job("x" * 64, "true"), "spec.template.labels", "must be no more than 63 bytes"),
        (
            job("a.b", "true", indexed=2),
            "metadata.name",
            "will not able to create pod with invalid DNS label",
        ),
        (job("x", "true", completionMode="Sideways"), "spec.completionMode", 'Unsupported value: "Sideways"'),
        (job("x" * 63, "true", indexed=2), "metadata.name", "must be no more than 63 characters"),
        (
            _without_restart_policy(),
            "spec.template.spec.restartPolicy",
            'supported values: "OnFailure", "Never"',
        ),
        (_gpu_without_limit(), "spec.template.spec.containers[0].resources.limits", "Limit must be set"),
        (
            job("x", "true", completionMode="Indexed", parallelism=2),
            "spec.completions",
            "when completion mode is Indexed",
        ),
        (
            job("x", "true", podFailurePolicy={"rules": [{"action": "Ignore"}]}),
            "spec.podFailurePolicy.rules[0]",
            "specifying one of OnExitCodes and OnPodConditions is required",
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
    status = refusal(lambda: client.core.create_namespaced_service("default", {"metadata": {"name": name}}))
    assert (status["code"], status["details"]["causes"][0]["field"]) == (422, "metadata.name")


def test_unknown_fields_and_wrong_types_are_bad_requests(client: Client) -> None:
    """API Concepts, "Field validation" (Strict)."""
    status = refusal(lambda: client.batch.create_namespaced_job("default", job("x", "true", paralelism=2)))
    assert (status["code"], status["reason"]) == (400, "BadRequest")
    assert 'strict decoding error: unknown field "spec.paralelism"' in status["message"]
    status = refusal(
        lambda: client.batch.create_namespaced_job("default", job("x", "true", parallelism="two"))
    )
    assert (status["code"], status["reason"]) == (400, "BadRequest")


def test_a_namespace_that_is_missing_takes_no_objects(client: Client) -> None:
    status = refusal(lambda: client.batch.create_namespaced_job("nowhere", job("x", "true")))
    assert status["message"] == 'namespaces "nowhere" not found'


def test_what_is_left_out_is_refused_aloud(client: Client) -> None:
    """501 where the real server would do something; 404 where it would not know the path either."""
    status = refusal(lambda: client.core.list_namespaced_persistent_volume_claim("default"))
    assert status["code"] == 501
    manifest = job("x", "true", backoffLimitPerIndex=1, indexed=1)
    status = refusal(lambda: client.batch.create_namespaced_job("default", manifest))
    assert status["code"] == 501
    status = refusal(lambda: client.custom.list_namespaced_custom_object("a.b", "v1", "default", "things"))
    assert (status["code"], status["reason"]) == (404, "NotFound")


def test_a_request_without_the_token_is_unauthorized(cluster: Cluster) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{cluster.url}/api/v1/namespaces/default/pods")
    assert caught.value.code == 401
    caught.value.close()
