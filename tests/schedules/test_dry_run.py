"""`doctor` sends the pods of a deployed schedule to the cluster as a dry run."""

import copy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from progdistill.cli.main import doctor
from progdistill.jobs.kubernetes.step_pods import step_pods
from tests.jobs.kubernetes_jobs import IMAGE, cluster
from tests.jobs.test_kubernetes_manifest import VERSIONS
from tests.kubernetes_api import Cluster
from tests.kubernetes_api.objects import SERVICE_ACCOUNTS, WORKFLOW_TEMPLATES
from tests.schedules.conftest import pods_of

__all__ = ["cluster"]

LEFT_OUT = ("nodeSelector", "tolerations", "activeDeadlineSeconds")
"""What the test API server leaves out."""


@pytest.mark.parametrize("version", VERSIONS)
def test_the_pods_are_those_of_the_steps_and_valid(version: str, compiled: dict[str, Any]) -> None:
    pods = dict(step_pods(compiled))
    for pod in pods.values():
        kubernetes_validate.validate(pod, version, strict=True)
    for step, part in pods_of(compiled).items():
        pod = pods[part["name"]]["spec"]
        assert pod["containers"][0]["command"] == part["container"]["command"], step
        assert (pod["nodeSelector"], pod["serviceAccountName"]) == ({"pool": "drivers"}, "progdistill-driver")
    assert "require-report" in pods


def test_the_doctor_passes_on_what_admission_says_of_a_schedule(
    compiled: dict[str, Any], cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    monkeypatch.chdir(tmp_path)
    Path("progdistill.toml").write_text(f'launcher = "kubernetes"\n[set]\n"cluster.image" = "{IMAGE}"\n')
    assert "schedules" not in doctor.cluster_facts()
    template = copy.deepcopy(compiled)
    template["metadata"] |= {"namespace": "default"}
    for part in template["spec"]["templates"]:
        for name in LEFT_OUT:
            part.pop(name, None)
    cluster.storage.create(WORKFLOW_TEMPLATES, template)
    assert "progdistill-driver" in doctor.cluster_facts()["schedules"]
    account = {"name": "progdistill-driver", "namespace": "default"}
    manifest = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account}
    cluster.storage.create(SERVICE_ACCOUNTS, manifest)
    assert doctor.cluster_facts()["schedules"] == doctor.ACCEPTED
    cluster.refuse_pods('violates PodSecurity "restricted:latest": seccompProfile')
    said = doctor.cluster_facts()["schedules"]
    assert said.startswith("refused: ") and said.count("violates PodSecurity") == 1 and ", step " in said
