"""Permissions, held against "Using RBAC Authorization" and "Authorization" (checking API access)."""

from typing import Any

from tests.kubernetes_api import Cluster
from tests.kubernetes_api.clients import Client
from tests.kubernetes_api.manifests import job
from tests.kubernetes_api.refusals import refusal

_USER = "system:serviceaccount:default:progdistill"


def test_what_is_not_allowed_is_forbidden_in_these_words(cluster: Cluster, client: Client) -> None:
    cluster.allow_only({"jobs.batch": {"get"}, "pods": {"list"}})
    status = refusal(lambda: client.batch.create_namespaced_job("default", job("x", "true")))
    assert (status["code"], status["reason"]) == (403, "Forbidden")
    assert status["message"] == (
        f'jobs.batch is forbidden: User "{_USER}" cannot create resource "jobs" in API group "batch"'
        ' in the namespace "default"'
    )
    assert status["details"] == {"group": "batch", "kind": "jobs"}
    status = refusal(lambda: client.batch.delete_namespaced_job("x", "default"))
    assert status["message"].startswith(
        f'jobs.batch "x" is forbidden: User "{_USER}" cannot delete resource "jobs"'
    )


def test_a_subresource_wants_a_permission_of_its_own(cluster: Cluster, client: Client) -> None:
    cluster.allow_only({"pods": {"get", "list", "watch"}})
    status = refusal(lambda: client.core.read_namespaced_pod_log("x", "default"))
    assert status["message"] == (
        f'pods "x" is forbidden: User "{_USER}" cannot get resource "pods/log" in API group ""'
        ' in the namespace "default"'
    )


def test_listing_is_no_watching(cluster: Cluster, client: Client) -> None:
    cluster.allow_only({"jobs.batch": {"list"}})
    client.batch.list_namespaced_job("default")
    status = refusal(lambda: client.batch.list_namespaced_job("default", watch=True))
    assert 'cannot watch resource "jobs"' in status["message"]


def test_a_service_account_can_ask_what_it_may(cluster: Cluster, client: Client) -> None:
    """SelfSubjectAccessReview."""

    def allowed(**attributes: Any) -> bool:
        spec = {"resourceAttributes": {"namespace": "default", **attributes}}
        review = client.authorization.create_self_subject_access_review({"spec": spec})
        return bool(review.status.allowed)

    cluster.allow_only({"jobs.batch": {"create"}, "pods/log": {"get"}})
    assert allowed(verb="create", group="batch", resource="jobs")
    assert not allowed(verb="delete", group="batch", resource="jobs")
    assert allowed(verb="get", resource="pods", subresource="log")
    assert not allowed(verb="get", resource="pods")
