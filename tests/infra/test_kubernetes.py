"""The manifests, as kustomize renders them: valid for the API, and as closed as they claim."""

from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from tests.infra.tools import OVERLAYS, objects, of_kind

VERSION = "1.33"
"""The Kubernetes release whose schemas hold; infra/aws/cluster.yaml makes a cluster of it."""

KUEUE = "kueue.x-k8s.io/v1beta2"
FOREIGN = {KUEUE, "karpenter.sh/v1"}
"""Kinds of custom resources, whose schemas no package has."""

rendered = pytest.mark.parametrize("overlay", OVERLAYS)


@rendered
def test_every_object_is_valid_for_the_api(overlay: str) -> None:
    for one in objects(overlay):
        if one["apiVersion"] not in FOREIGN:
            kubernetes_validate.validate(one, VERSION, strict=True)


@rendered
def test_everything_namespaced_is_in_the_one_namespace(overlay: str) -> None:
    cluster_wide = {
        "Namespace", "PriorityClass", "StorageClass", "ClusterQueue", "ResourceFlavor", "NodePool"
    }  # fmt: skip
    elsewhere = [
        one["metadata"]["name"]
        for one in objects(overlay)
        if one["kind"] not in cluster_wide and one["metadata"].get("namespace") != "progdistill"
    ]
    assert elsewhere in ([], ["amazon-vpc-cni"])


@rendered
def test_the_namespace_admits_restricted_pods_only(overlay: str) -> None:
    (namespace,) = of_kind(overlay, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def _pods(overlay: str) -> list[dict[str, Any]]:
    pods = [one["spec"]["jobTemplate"]["spec"]["template"] for one in of_kind(overlay, "CronJob")]
    assert len(pods) == 3
    known = {"CronJob", "Deployment", "StatefulSet", "DaemonSet", "Job", "Pod"}
    assert {one["kind"] for one in objects(overlay)} & known == {"CronJob"}, "another workload to look at"
    return pods


@rendered
def test_pods_are_non_root_and_read_only_with_bounded_resources(overlay: str) -> None:
    for pod in _pods(overlay):
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["securityContext"]["runAsUser"] > 0
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["spec"]["automountServiceAccountToken"] is False
        for container in pod["spec"]["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"]["requests"])
            assert {"memory", "ephemeral-storage"} <= set(container["resources"]["limits"])
            assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]


@rendered
def test_pods_use_accounts_and_configuration_that_exist(overlay: str) -> None:
    accounts = {one["metadata"]["name"] for one in of_kind(overlay, "ServiceAccount")}
    maps = {one["metadata"]["name"] for one in of_kind(overlay, "ConfigMap")}
    assert accounts == {"progdistill-driver", "progdistill-worker", "progdistill-maintenance"}
    for pod in _pods(overlay):
        assert pod["spec"]["serviceAccountName"] in accounts
        for source in pod["spec"]["containers"][0]["envFrom"]:
            assert source["configMapRef"]["name"] in maps


@rendered
def test_every_image_is_pinned_to_one_version(overlay: str) -> None:
    for pod in _pods(overlay):
        for container in pod["spec"]["containers"]:
            _, _, version = container["image"].rpartition(":")
            assert version[0].isdigit(), f"{container['image']} is not pinned"


@rendered
def test_no_manifest_holds_a_secret(overlay: str) -> None:
    assert of_kind(overlay, "Secret") == []
    for settings in of_kind(overlay, "ConfigMap"):
        names = " ".join(settings["data"]).upper()
        assert not any(word in names for word in ("SECRET", "PASSWORD", "TOKEN", "ACCESS_KEY"))


@rendered
def test_all_traffic_is_denied_but_for_what_policies_name(overlay: str) -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(overlay, "NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ingress = {name for name, spec in policies.items() if spec.get("ingress")}
    assert ingress == {"workers-among-themselves"}, "nothing but another worker may open a connection"


@rendered
def test_neither_workers_nor_maintenance_reach_the_api_server(overlay: str) -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(overlay, "NetworkPolicy")}
    (selector,) = policies["drivers-to-cluster"]["podSelector"]["matchExpressions"]
    assert (selector["operator"], selector["values"]) == ("NotIn", ["worker", "maintenance"])
    (blocks, *_) = policies["object-store"]["egress"]
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(
        blocks["to"][0]["ipBlock"]["except"]
    )


@rendered
def test_quotas_bound_what_the_namespace_can_cost(overlay: str) -> None:
    (quota,) = of_kind(overlay, "ResourceQuota")
    hard = quota["spec"]["hard"]
    assert {"requests.cpu", "requests.memory", "pods", "count/jobs.batch"} <= set(hard)
    accelerators = {name: hard[f"requests.{name}"] for name in ("nvidia.com/gpu", "google.com/tpu")}
    allowed = {"overlays/gpu": "nvidia.com/gpu", "overlays/tpu": "google.com/tpu"}.get(overlay)
    assert {name for name, count in accelerators.items() if count != "0"} == ({allowed} - {None})


@pytest.mark.parametrize("overlay", ["overlays/gpu", "overlays/tpu"])
def test_queue_and_quota_agree_and_every_flavor_exists(overlay: str) -> None:
    (queue,) = of_kind(overlay, "LocalQueue")
    (pool,) = of_kind(overlay, "ClusterQueue")
    (quota,) = of_kind(overlay, "ResourceQuota")
    assert {queue["apiVersion"], pool["apiVersion"]} == {KUEUE}
    assert queue["spec"] == {"clusterQueue": pool["metadata"]["name"]}
    flavors = {one["metadata"]["name"] for one in of_kind(overlay, "ResourceFlavor")}
    for group in pool["spec"]["resourceGroups"]:
        for flavor in group["flavors"]:
            assert flavor["name"] in flavors
            assert [one["name"] for one in flavor["resources"]] == group["coveredResources"]
            for one in flavor["resources"]:
                bound = quota["spec"]["hard"].get(f"requests.{one['name']}", one["nominalQuota"])
                assert bound == one["nominalQuota"], f"{one['name']}: queue and quota differ"


def test_the_gpu_queue_leads_to_the_nodes_of_the_gpu_pool() -> None:
    (pool,) = of_kind("overlays/gpu", "NodePool")
    (flavor,) = [one for one in of_kind("overlays/gpu", "ResourceFlavor") if "gpu" in one["metadata"]["name"]]
    template = pool["spec"]["template"]
    assert flavor["spec"]["nodeLabels"].items() <= template["metadata"]["labels"].items()
    tolerated = {one["key"] for one in flavor["spec"]["tolerations"]}
    assert {taint["key"] for taint in template["spec"]["taints"]} <= tolerated
