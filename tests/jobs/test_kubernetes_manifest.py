"""The manifests that are sent to a cluster: valid by the published schemas, unprivileged, without secrets."""

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from progdistill.config.cluster import ClusterSettings
from progdistill.data.dataset import DatasetInfo
from progdistill.jobs.kubernetes.manifest import Submission, job_manifest, service_manifest, submission_for
from progdistill.store.open import open_store
from tests.jobs.kubernetes_jobs import IMAGE, cluster_digits, small_job

__all__ = ["cluster_digits"]

VERSIONS = ("1.31", "1.36")


@pytest.fixture
def submit(tmp_path: Path, cluster_digits: DatasetInfo) -> Any:
    """Makes a submission of a training job; keyword arguments are the cluster's settings."""
    store = open_store(str(tmp_path / "store"))

    def made(**settings: Any) -> Submission:
        cluster = ClusterSettings.model_validate({"image": IMAGE, **settings})
        request = small_job(store, cluster_digits)
        spec = request.spec.model_copy(update={"world_size": cluster.train.world_size})
        return submission_for(request.model_copy(update={"spec": spec}), cluster, store)

    return made


def pod_of(submission: Submission) -> dict[str, Any]:
    spec: dict[str, Any] = job_manifest(submission)["spec"]["template"]["spec"]
    return spec


FULL: dict[str, Any] = {
    "service_account": "worker",
    "env": {"AWS_REGION": "us-east-1"},
    "env_from_secrets": ["s3-credentials"],
    "image_pull_secrets": ["registry"],
    "volumes": {"datasets": "/data"},
    "deadline_hours": 2,
    "train": {
        "hosts": 4,
        "accelerator": "nvidia.com/gpu",
        "accelerators_per_host": 8,
        "cpu": 96,
        "memory_gib": 900,
        "node_selector": {"pool": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
        "priority_class": "training",
        "queue": "research",
        "env": {"NCCL_DEBUG": "WARN"},
    },
}
TPU = {"accelerator": "google.com/tpu", "tpu_type": "tpu-v5-lite-podslice"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("settings", [{}, FULL])
def test_manifests_are_valid_by_the_published_schemas(version: str, settings: dict[str, Any], submit: Any) -> None:
    submission = submit(**settings)
    for manifest in (job_manifest(submission), service_manifest(submission, "1234")):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_pods_meet_the_restricted_pod_security_standard(submit: Any) -> None:
    pod = pod_of(submit())
    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert not pod["automountServiceAccountToken"]
    assert all(set(volume) & {"emptyDir", "persistentVolumeClaim"} for volume in pod["volumes"])


def test_what_the_end_of_a_pod_means_is_settled_in_the_job(submit: Any) -> None:
    spec = job_manifest(submit(backoff_limit=3))["spec"]
    assert (spec["completionMode"], spec["podReplacementPolicy"], spec["backoffLimit"]) == ("Indexed", "Failed", 3)
    disrupted, others, setting = spec["podFailurePolicy"]["rules"]
    assert disrupted["action"] == others["action"] == "Ignore" and setting["action"] == "FailJob"
    assert others["onExitCodes"]["values"] == [75, 130]
    assert setting["onExitCodes"]["values"] == [2, 3]
    assert {rule["onExitCodes"]["containerName"] for rule in (others, setting)} == {"worker"}


def test_one_job_has_one_name_whoever_submits_it_and_carries_its_lineage(submit: Any) -> None:
    first, second = submit(), submit(train={"cpu": 7})
    assert first.name == second.name == f"progdistill-train-base-{first.request.spec.id[:12]}"
    metadata = job_manifest(first)["metadata"]
    assert metadata["annotations"]["progdistill/job-id"] == first.request.spec.id
    assert metadata["labels"]["progdistill/run"] == "7"


EXTRAS: dict[str, Any] = {
    "labels": {"team": "vision", "sidecar.istio.io/inject": "false"},
    "annotations": {"karpenter.sh/do-not-disrupt": "true"},
    "security_context": {"capabilities": {"add": ["IPC_LOCK"]}},
    "pod_patch": {"schedulerName": "volcano", "hostNetwork": True},
    "train": {
        "labels": {"team": "research"},
        "annotations": {"kueue.x-k8s.io/podset-required-topology": "cloud.provider.com/topology-rack"},
        "extra_resources": {"vpc.amazonaws.com/efa": "32", "hugepages-2Mi": "5Gi"},
        "affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "pod_patch": {"schedulerName": "other", "runtimeClassName": "nvidia"},
    },
}


def test_what_the_launcher_does_not_know_reaches_the_pods_and_changes_no_job(submit: Any) -> None:
    plain, submission = submit(), submit(**EXTRAS)
    assert submission.request.spec.id == plain.request.spec.id and submission.name == plain.name
    job = job_manifest(submission)
    kubernetes_validate.validate(job, VERSIONS[-1], strict=True)
    pod, template = job["spec"]["template"]["spec"], job["spec"]["template"]["metadata"]
    (worker,) = pod["containers"]
    assert template["labels"]["team"] == "research" and template["labels"]["sidecar.istio.io/inject"] == "false"
    assert EXTRAS["annotations"].items() <= template["annotations"].items()
    assert EXTRAS["train"]["annotations"].items() <= template["annotations"].items()
    for amounts in worker["resources"].values():
        assert EXTRAS["train"]["extra_resources"].items() <= amounts.items()
    assert worker["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert worker["securityContext"]["readOnlyRootFilesystem"]
    assert (pod["schedulerName"], pod["runtimeClassName"], pod["hostNetwork"]) == ("other", "nvidia", True)
    assert pod["affinity"] == EXTRAS["train"]["affinity"]


def test_secrets_are_references_only(submit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    manifest = job_manifest(submit(**FULL))
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    assert container["envFrom"] == [{"secretRef": {"name": "s3-credentials"}}]
    assert "very-secret" not in json.dumps(manifest)


def test_gpus_memory_and_disk_are_requested_and_limited_alike(submit: Any) -> None:
    resources = pod_of(submit(**FULL))["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == "8"
    assert resources["limits"]["memory"] == resources["requests"]["memory"] == f"{900 * 1024}Mi"
    assert "cpu" not in resources["limits"]


@pytest.mark.parametrize(
    ("topology", "per_host", "hosts"), [("2x4", 4, 2), ("2x4", 8, 1), ("4x4", 4, 4), ("2x2x4", 4, 4)]
)
def test_a_tpu_slice_has_as_many_pods_as_its_topology_has_hosts(
    topology: str, per_host: int, hosts: int, submit: Any
) -> None:
    slice_of = {**TPU, "tpu_topology": topology, "accelerators_per_host": per_host}
    submission = submit(train=slice_of)
    manifest = job_manifest(submission)
    kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)
    pod = manifest["spec"]["template"]["spec"]
    assert manifest["spec"]["parallelism"] == manifest["spec"]["completions"] == hosts
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": topology,
    }
    assert pod["containers"][0]["resources"]["limits"]["google.com/tpu"] == str(per_host)
    assert submission.resources.world_size == hosts * per_host


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"accelerator": "nvidia.com/gpu"}, "accelerators_per_host"),
        ({**TPU, "accelerators_per_host": 4}, "tpu_topology"),
        ({**TPU, "accelerators_per_host": 3, "tpu_topology": "2x4"}, "is not a multiple of"),
        ({**TPU, "accelerators_per_host": 4, "tpu_topology": "2x4", "hosts": 3}, "2 hosts, not 3"),
    ],
)
def test_resources_that_contradict_one_another_are_refused(step: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ClusterSettings.model_validate({"train": step})


def test_a_queue_holds_the_job_until_kueue_admits_it(submit: Any) -> None:
    manifest = job_manifest(submit(**FULL))
    assert manifest["spec"]["suspend"] is True
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"


def test_pods_use_the_cores_they_asked_for_and_watch_no_driver(submit: Any) -> None:
    submission = submit(train={"cpu": 6})
    assert submission.request.compute.threads_per_rank == 1  # as the configuration says
    free = submission.request.compute.model_copy(update={"threads_per_rank": None})
    again = submission_for(
        submission.request.model_copy(update={"compute": free, "driver_process_id": 1}),
        submission.cluster,
        open_store(submission.store_uri),
    )
    assert again.request.compute.threads_per_rank == 6
    assert again.request.driver_process_id is None
