"""What pods get beyond the launcher's own is checked at the edge, and patched in as Kubernetes would."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from progdistill.config.cluster import ClusterSettings
from progdistill.config.pod_patch import patched
from tests.infra.tools import tool

POD: dict[str, Any] = {
    "restartPolicy": "Never",
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "imagePullSecrets": [{"name": "registry"}],
    "securityContext": {"runAsUser": 1000, "runAsNonRoot": True},
    "containers": [
        {
            "name": "worker",
            "image": "i",
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
            "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
            "ports": [{"name": "rendezvous", "containerPort": 20000}],
            "securityContext": {"capabilities": {"drop": ["ALL"]}},
        }
    ],
    "volumes": [{"name": "cache", "emptyDir": {}}],
}
PATCH: dict[str, Any] = {
    "hostNetwork": True,
    "tolerations": [{"key": "b", "operator": "Exists"}],
    "imagePullSecrets": [{"name": "mirror"}],
    "securityContext": {"runAsUser": None, "runAsGroup": 0},
    "containers": [
        {
            "name": "worker",
            "env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}],
            "volumeMounts": [{"name": "huge", "mountPath": "/huge"}],
            "ports": [{"containerPort": 20000, "hostPort": 20000}],
            "securityContext": {"capabilities": {"add": ["IPC_LOCK"]}},
        }
    ],
    "initContainers": [{"name": "tune", "image": "t", "command": ["true"]}],
    "volumes": [{"name": "huge", "emptyDir": {"medium": "HugePages"}}],
}


def by_name(value: Any) -> Any:
    """Lists of objects in one order: kubectl and we put new items into different places."""
    if isinstance(value, dict):
        return {key: by_name(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return sorted(map(by_name, value), key=lambda one: json.dumps(one, sort_keys=True))
    return value


def test_a_patch_does_what_kubectl_does(tmp_path: Path) -> None:
    file = tmp_path / "pod.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": POD}))
    patch = json.dumps({"spec": PATCH})
    command = [tool("kubectl"), "patch", "--local", "-f", file, "--type=strategic", f"--patch={patch}", "-o", "json"]
    done = subprocess.run(command, env={"HOME": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert by_name(patched(POD, PATCH)) == by_name(json.loads(done.stdout)["spec"])
    assert POD["containers"][0]["env"][1] == {"name": "B", "value": "2"}, "the original is left alone"


@pytest.mark.parametrize(
    ("extras", "words"),
    [
        ({"labels": {"a b": "x"}}, "'a b' is no key"),
        ({"labels": {"team": "a b"}}, "team = 'a b'"),
        ({"annotations": {"progdistill/job-id": "x"}}, "set by the launcher"),
        ({"labels": {"kueue.x-k8s.io/queue-name": "x"}}, "queue=…"),
        ({"extra_resources": {"memory": "2Gi"}}, "'memory' is no resource of a device plugin"),
        ({"extra_resources": {"vpc.amazonaws.com/efa": "half"}}, "whole amount"),
        ({"affinity": {"nodes": {}}}, "podAntiAffinity"),
        ({"security_context": {"run_as_user": 0}}, "unknown field run_as_user"),
        ({"pod_patch": {"restartPolicy": "Always"}}, "restartPolicy is what the launcher itself needs"),
        ({"pod_patch": {"containers": [{"name": "worker", "args": []}]}}, "args is what the launcher itself needs"),
        ({"pod_patch": {"containers": [{"image": "x"}]}}, "each item of containers needs name"),
        ({"pod_patch": {"volumes": ["x"]}}, "each item of volumes needs name"),
        ({"pod_patch": {"volumes": [{"name": "x", "$patch": "delete"}]}}, "null removes"),
        (
            {"pod_patch": {"containers": [{"name": "worker", "env": [{"name": "DB_PASS", "value": "x"}]}]}},
            "DB_PASS looks like a secret",
        ),
    ],
)
@pytest.mark.parametrize("of", ["all pods", "a kind of job"])
def test_what_kubernetes_or_the_launcher_cannot_take_is_refused(of: str, extras: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ClusterSettings.model_validate(extras if of == "all pods" else {"train": extras})


def test_the_resource_of_the_accelerator_is_said_in_one_place() -> None:
    step = {"accelerator": "nvidia.com/gpu", "accelerators_per_host": 8, "extra_resources": {"nvidia.com/gpu": "8"}}
    with pytest.raises(ValueError, match="accelerators_per_host decides"):
        ClusterSettings.model_validate({"train": step})
