"""The manifests as kustomize renders them: valid for the API, and as restricted as documented."""

import ipaddress
import re
from collections.abc import Callable
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from progdistill.jobs.kubernetes.manifest import JOB_LABEL
from tests.infra.tools import KUBERNETES_VERSION, OVERLAYS, objects, of_kind

KUEUE = "kueue.x-k8s.io/v1beta2"
FOREIGN = {KUEUE, "karpenter.sh/v1"}
"""Kinds of custom resources, whose schemas no package has."""

WORKER_LABEL = "progdistill/job"
"""What the launcher labels its pods with."""

rendered = pytest.mark.parametrize("overlay", OVERLAYS)


@pytest.mark.parametrize("folder", [*OVERLAYS, "metaflow"])
def test_every_object_is_valid_for_the_api(folder: str) -> None:
    for one in objects(folder):
        if one["apiVersion"] not in FOREIGN:
            kubernetes_validate.validate(one, KUBERNETES_VERSION, strict=True)


@rendered
def test_everything_namespaced_is_in_the_one_namespace(overlay: str) -> None:
    cluster_wide = {
        "Namespace", "PriorityClass", "StorageClass", "ClusterQueue", "ResourceFlavor", "NodePool",
        "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
    }  # fmt: skip
    elsewhere = [
        one["metadata"]["name"]
        for one in objects(overlay)
        if one["kind"] not in cluster_wide and one["metadata"].get("namespace") != "progdistill"
    ]
    assert elsewhere in ([], ["amazon-vpc-cni"])


@pytest.mark.parametrize("folder", [*OVERLAYS, "metaflow"])
def test_the_namespace_admits_restricted_pods_only(folder: str) -> None:
    (namespace,) = of_kind(folder, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


workloads = pytest.mark.parametrize("folder", [*OVERLAYS, "metaflow"])


def _pods(folder: str) -> list[dict[str, Any]]:
    pods = [one["spec"]["jobTemplate"]["spec"]["template"]["spec"] for one in of_kind(folder, "CronJob")]
    pods += [one["spec"]["template"]["spec"] for one in of_kind(folder, "Deployment")]
    others = {"StatefulSet", "DaemonSet", "Job", "Pod"} & {one["kind"] for one in objects(folder)}
    assert pods and not others, "another kind of workload to look at"
    return pods


def _containers(folder: str) -> list[dict[str, Any]]:
    return [one for pod in _pods(folder) for one in (*pod.get("initContainers", ()), *pod["containers"])]


@workloads
def test_pods_are_non_root_and_none_but_the_reaper_holds_a_token_of_the_cluster(folder: str) -> None:
    for pod in _pods(folder):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is (pod["serviceAccountName"] == "progdistill-reaper")


@workloads
def test_containers_are_read_only_unprivileged_and_say_what_they_need(folder: str) -> None:
    for container in _containers(folder):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
        assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]


@workloads
def test_pods_use_accounts_and_configuration_that_exist(folder: str) -> None:
    accounts = {one["metadata"]["name"] for one in of_kind(folder, "ServiceAccount")}
    maps = {one["metadata"]["name"] for one in of_kind(folder, "ConfigMap")}
    assert {pod["serviceAccountName"] for pod in _pods(folder)} <= accounts
    for container in _containers(folder):
        named = {source["configMapRef"]["name"] for source in container["envFrom"] if "configMapRef" in source}
        assert named and named <= maps


@workloads
def test_every_image_is_pinned_to_one_version(folder: str) -> None:
    for container in _containers(folder):
        assert re.search(r":[a-z-]*\d+\.\d+\.\d+[a-z-]*$", container["image"]), container["image"]


@workloads
def test_every_selector_of_a_service_finds_pods(folder: str) -> None:
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in of_kind(folder, "Deployment")]
    for service in of_kind(folder, "Service"):
        assert any(service["spec"]["selector"].items() <= one.items() for one in labels)


def test_argos_own_containers_are_admitted_by_the_namespace() -> None:
    (settings,) = objects("argo")
    kubernetes_validate.validate(settings, KUBERNETES_VERSION, strict=True)
    executor = yaml.safe_load(settings["data"]["executor"])
    assert {"cpu", "memory"} <= set(executor["resources"]["requests"])
    # What the restricted level asks of a container whose pod says nothing.
    assert executor["securityContext"]["runAsNonRoot"] is True
    assert executor["securityContext"]["allowPrivilegeEscalation"] is False
    assert executor["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert executor["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


@workloads
def test_no_manifest_holds_a_secret(folder: str) -> None:
    assert of_kind(folder, "Secret") == []
    for settings in of_kind(folder, "ConfigMap"):
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
    selectors = policies["drivers-to-cluster"]["podSelector"]["matchExpressions"]
    assert selectors == [
        {"key": WORKER_LABEL, "operator": "DoesNotExist"},
        {"key": "app.kubernetes.io/component", "operator": "NotIn", "values": ["maintenance"]},
    ]
    workers = policies["workers-among-themselves"]["podSelector"]
    assert workers == {"matchExpressions": [{"key": WORKER_LABEL, "operator": "Exists"}]}
    for name in ("object-store", "object-store-for-maintenance"):
        (blocks,) = policies[name]["egress"]
        private = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"}
        assert private <= set(blocks["to"][0]["ipBlock"]["except"])


@rendered
def test_no_exception_of_one_policy_denies_what_another_policy_of_the_pod_allows(overlay: str) -> None:
    """EKS merges the policies of a pod: an address in `except` is denied, unless a longer prefix allows it."""
    policies = [one["spec"] for one in of_kind(overlay, "NetworkPolicy")]
    pods = {
        "worker": {WORKER_LABEL: "7"},
        "driver": {"app.kubernetes.io/part-of": "metaflow"},
        "maintenance": {"app.kubernetes.io/component": "maintenance"},
    }
    for kind, labels in pods.items():
        blocks = [
            peer["ipBlock"]
            for spec in policies
            if selects(spec["podSelector"], labels)
            for rule in spec.get("egress", [])
            for peer in rule.get("to", [])
            if "ipBlock" in peer
        ]
        excepted = [ipaddress.ip_network(text) for block in blocks for text in block.get("except", [])]
        for block in (block for block in blocks if "except" not in block):
            allowed = ipaddress.ip_network(block["cidr"])
            denied = [one for one in excepted if one.overlaps(allowed) and one.prefixlen >= allowed.prefixlen]
            assert not denied, (kind, block)


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a selector matches a pod with these labels."""
    wanted = selector.get("matchLabels", {}).items()
    operators: dict[str, Callable[[str, list[str]], bool]] = {
        "Exists": lambda key, values: key in labels,
        "DoesNotExist": lambda key, values: key not in labels,
        "In": lambda key, values: labels.get(key) in values,
        "NotIn": lambda key, values: labels.get(key) not in values,
    }
    expressions = selector.get("matchExpressions", [])
    return wanted <= labels.items() and all(
        operators[one["operator"]](one["key"], one.get("values", [])) for one in expressions
    )


def test_the_label_of_workers_is_the_launchers() -> None:
    assert JOB_LABEL == WORKER_LABEL


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
    pool = next(one for one in of_kind("overlays/gpu", "NodePool") if "gpu" in one["metadata"]["name"])
    (flavor,) = [one for one in of_kind("overlays/gpu", "ResourceFlavor") if "gpu" in one["metadata"]["name"]]
    template = pool["spec"]["template"]
    assert flavor["spec"]["nodeLabels"].items() <= template["metadata"]["labels"].items()
    tolerated = {one["key"] for one in flavor["spec"]["tolerations"]}
    assert {taint["key"] for taint in template["spec"]["taints"]} <= tolerated
