"""A schedule on a real Argo Workflows, in the restricted namespace: it ends with its report or says it has none."""

from pathlib import Path

import pytest

from progdistill.store.layout import report_key
from progdistill.store.open import open_store
from tests.cluster.argo import argo_command, ended, messages, pods_of_step, receive_messages, start
from tests.cluster.real import RealCluster


@pytest.fixture(scope="module")
def argo(cluster: RealCluster) -> RealCluster:
    """The cluster, with a webhook; skipped where Argo is not installed."""
    if "NotFound" in cluster.kubectl("get", "crd", "workflows.argoproj.io", check=False):
        pytest.skip("this cluster has no Argo Workflows")
    receive_messages(cluster)
    return cluster


@pytest.mark.timeout(6000)
def test_a_schedule_reports_three_times_in_a_row_though_a_step_is_killed(argo: RealCluster, tmp_path: Path) -> None:
    argo_command(argo, tmp_path, "create")
    for attempt in range(3):
        name = start(argo)
        if attempt == 1:
            [pod] = argo.wait_for(lambda name=name: pods_of_step(argo, name, "distill"), timeout_seconds=1500)
            argo.kubectl("delete", "pod", pod, "--grace-period=0", "--force")
        status = ended(argo, name)
        assert status["phase"] == "Succeeded", status
        assert open_store(argo.store).read(report_key("DistillFlow", f"argo-{name}")) is not None
        omitted = [node["displayName"] for node in status["nodes"].values() if node["phase"] == "Omitted"]
        assert omitted == []
        assert name not in messages(argo)


@pytest.mark.timeout(3000)
def test_a_schedule_without_a_report_fails_and_notifies(argo: RealCluster, tmp_path: Path) -> None:
    argo_command(argo, tmp_path, "create", reproduce="nothing-of-that-name")
    name = start(argo)
    assert ended(argo, name)["phase"] in ("Failed", "Error")
    assert f"DistillFlow/argo-{name} ended (Failed) without a report" in messages(argo)
