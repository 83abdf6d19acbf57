"""The example configuration files are valid, and name objects that the manifests create."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from progdistill.config.deployment import parse_deployment
from progdistill.config.options import resolve_options
from progdistill.config.settings import settings_from
from progdistill.run.estimate import read_prices
from tests.infra.tools import INFRA, ROOT, of_kind


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The cluster section of a run started beside infra/progdistill.toml."""
    shutil.copy(INFRA / "progdistill.toml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROGDISTILL_STORE", raising=False)
    monkeypatch.delenv("PROGDISTILL_LAUNCHER", raising=False)
    settings = settings_from(resolve_options({}))
    assert settings.store == "s3://BUCKET/models"
    return settings.cluster


def _names(kind: str) -> set[str]:
    return {one["metadata"]["name"] for one in of_kind("overlays/gpu", kind)}


def test_the_prices_that_the_guide_to_costs_shows_are_read(tmp_path: Path) -> None:
    (shown,) = re.findall(r"^```toml\n(.*?)^```$", (ROOT / "docs" / "costs.md").read_text(), re.M | re.S)
    (tmp_path / "progdistill.toml").write_text(shown)
    prices = read_prices(tmp_path / "progdistill.toml")
    assert prices.currency == "EUR"
    assert prices.per_device_hour == {"NVIDIA H100 80GB HBM3": 2.5, "cpu": 0.05}


def test_jobs_use_accounts_volumes_queues_and_priorities_that_exist(cluster: Any) -> None:
    assert cluster.namespace in _names("Namespace")
    assert cluster.service_account in _names("ServiceAccount")
    assert set(cluster.volumes) <= _names("PersistentVolumeClaim")
    for resources in (cluster.train, cluster.distill, cluster.evaluate):
        assert resources.queue in _names("LocalQueue")
        assert resources.priority_class in _names("PriorityClass")


def test_jobs_tolerate_the_taints_of_the_gpu_nodes(cluster: Any) -> None:
    pool = next(one for one in of_kind("overlays/gpu", "NodePool") if "gpu" in one["metadata"]["name"])
    taints = {taint["key"] for taint in pool["spec"]["template"]["spec"]["taints"]}
    for resources in (cluster.train, cluster.distill, cluster.evaluate):
        assert taints <= {toleration.key for toleration in resources.tolerations}


def test_a_job_of_every_step_fits_the_quota(cluster: Any) -> None:
    (quota,) = of_kind("overlays/gpu", "ResourceQuota")
    for resources in (cluster.train, cluster.distill, cluster.evaluate):
        asked = resources.hosts * resources.accelerators_per_host
        assert asked <= int(quota["spec"]["hard"][f"requests.{resources.accelerator}"])


def test_the_deployment_is_valid_and_runs_as_the_driver() -> None:
    deployment = parse_deployment((INFRA / "deployment.toml").read_text())
    assert deployment.service_account in _names("ServiceAccount")
    assert deployment.options["launcher"] == "kubernetes"


def test_steps_satisfy_the_restricted_pod_security_of_the_namespace() -> None:
    context = parse_deployment((INFRA / "deployment.toml").read_text()).security_context
    assert context["run_as_non_root"] is True
    assert context["allow_privilege_escalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccomp_profile"] == {"type": "RuntimeDefault"}


def test_the_configuration_that_the_guide_to_tpus_shows_is_a_slice_of_four_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shown,) = re.findall(r"^```toml\n(.*?)^```$", (ROOT / "docs" / "tpu.md").read_text(), re.M | re.S)
    (tmp_path / "progdistill.toml").write_text(shown)
    monkeypatch.chdir(tmp_path)
    cluster: Any = settings_from(resolve_options({})).cluster  # type: ignore[attr-defined,unused-ignore]
    (flavor,) = [one for one in of_kind("overlays/tpu", "ResourceFlavor") if "tpu" in one["metadata"]["name"]]
    for resources in (cluster.train, cluster.distill):
        assert resources.host_count == 4
        labels = flavor["spec"]["nodeLabels"]
        assert labels["cloud.google.com/gke-tpu-accelerator"] == resources.tpu_type
        assert labels["cloud.google.com/gke-tpu-topology"] == resources.tpu_topology
        assert resources.queue in {one["metadata"]["name"] for one in of_kind("overlays/tpu", "LocalQueue")}


def test_drivers_run_on_the_nodes_of_their_pool() -> None:
    deployment = parse_deployment((INFRA / "deployment.toml").read_text())
    pool = next(one for one in of_kind("overlays/gpu", "NodePool") if "drivers" in one["metadata"]["name"])
    template = pool["spec"]["template"]
    assert deployment.node_selector.items() <= template["metadata"]["labels"].items()
    taints = {taint["key"] for taint in template["spec"]["taints"]}
    assert taints <= {toleration["key"] for toleration in deployment.tolerations}
    classes = {one["metadata"]["name"] for one in of_kind("overlays/gpu", "PriorityClass")}
    assert deployment.priority_class in classes


def test_no_node_lives_longer_than_auto_mode_allows() -> None:
    """The sum of expireAfter and terminationGracePeriod may not exceed 21 days."""
    for pool in of_kind("overlays/gpu", "NodePool"):
        spec = pool["spec"]["template"]["spec"]
        hours = [int(spec[name].removesuffix("h")) for name in ("expireAfter", "terminationGracePeriod")]
        assert sum(hours) <= 21 * 24
