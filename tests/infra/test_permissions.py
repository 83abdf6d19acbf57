"""A driver may do in the cluster exactly what the launcher does, and nobody else may do anything."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from tests.infra.tools import KUBERNETES, KUBERNETES_VERSION, OVERLAYS, of_kind

LAUNCHER = "progdistill.jobs.kubernetes.api"


def _granted(role: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.skipif(find_spec(LAUNCHER) is None, reason="the Kubernetes launcher is not here yet")
def test_the_drivers_role_is_what_the_launcher_requires_and_no_more() -> None:
    required = {tuple(permission) for permission in import_module(LAUNCHER).REQUIRED_PERMISSIONS}
    (role,) = [one for one in of_kind("base", "Role") if one["metadata"]["name"] == "progdistill-driver"]
    assert _granted(role) == required


@pytest.mark.skipif(find_spec(LAUNCHER) is None, reason="the Kubernetes launcher is not here yet")
def test_the_role_of_jobsets_is_what_the_launcher_requires_and_no_more() -> None:
    required = {tuple(permission) for permission in import_module(LAUNCHER).JOBSET_PERMISSIONS}
    (role,) = [
        one
        for one in yaml.safe_load_all((KUBERNETES / "components/jobset/role.yaml").read_text())
        if one["kind"] == "Role"
    ]
    kubernetes_validate.validate(role, KUBERNETES_VERSION, strict=True)
    assert _granted(role) == required


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_roles_of_the_namespace_bound_to_the_driver_are_granted(overlay: str) -> None:
    assert of_kind(overlay, "ClusterRole") == of_kind(overlay, "ClusterRoleBinding") == []
    roles = {one["metadata"]["name"] for one in of_kind(overlay, "Role")}
    for binding in of_kind(overlay, "RoleBinding"):
        assert binding["roleRef"]["kind"] == "Role"
        assert binding["roleRef"]["name"] in roles
        (subject,) = binding["subjects"]
        assert (subject["kind"], subject["name"]) == ("ServiceAccount", "progdistill-driver")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_role_has_a_wildcard_or_reads_secrets(overlay: str) -> None:
    for role in of_kind(overlay, "Role"):
        for group, resource, verb in _granted(role):
            assert "*" not in (group, resource, verb)
            assert resource not in ("secrets", "pods/exec", "roles", "rolebindings")
            assert verb not in ("impersonate", "bind", "escalate")
