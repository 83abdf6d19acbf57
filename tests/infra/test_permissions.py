"""A driver has exactly the permissions that the launcher uses; other accounts have none."""

from typing import Any

import pytest

from progdistill.jobs.kubernetes.api import OPTIONAL_PERMISSIONS, REQUIRED_PERMISSIONS
from tests.infra.tools import OVERLAYS, of_kind


def _granted(role: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_drivers_role_is_what_the_launcher_uses_and_no_more() -> None:
    required = {tuple(permission) for permission in (*REQUIRED_PERMISSIONS, *OPTIONAL_PERMISSIONS)}
    (role,) = [one for one in of_kind("base", "Role") if one["metadata"]["name"] == "progdistill-driver"]
    assert _granted(role) == required


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_roles_of_the_namespace_bound_to_drivers_and_the_reaper_are_granted(overlay: str) -> None:
    assert of_kind(overlay, "ClusterRole") == of_kind(overlay, "ClusterRoleBinding") == []
    roles = {one["metadata"]["name"] for one in of_kind(overlay, "Role")}
    for binding in of_kind(overlay, "RoleBinding"):
        assert binding["roleRef"]["kind"] == "Role"
        assert binding["roleRef"]["name"] in roles
        (subject,) = binding["subjects"]
        expected = "progdistill-reaper" if binding["metadata"]["name"] == "progdistill-reaper" else "progdistill-driver"
        assert (subject["kind"], subject["name"]) == ("ServiceAccount", expected)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_role_has_a_wildcard_or_reads_secrets(overlay: str) -> None:
    for role in of_kind(overlay, "Role"):
        for group, resource, verb in _granted(role):
            assert "*" not in (group, resource, verb)
            assert resource not in ("secrets", "pods/exec", "roles", "rolebindings")
            assert verb not in ("impersonate", "bind", "escalate")
