"""The CronJobs of the namespace, started by hand as docs/production.md does it."""

import json
import uuid

import pytest

from tests.cluster.real import RealCluster


@pytest.mark.parametrize("name", ["doctor", "verify", "collect-garbage"])
def test_a_cronjob_ends_well(name: str, cluster: RealCluster) -> None:
    run = f"{name}-{uuid.uuid4().hex[:6]}"
    cluster.kubectl("create", "job", run, f"--from=cronjob/{name}")
    try:
        ended = cluster.wait_for(lambda: _conditions(cluster, run) & {"Complete", "Failed"})
        said = cluster.kubectl("logs", f"job/{run}")
        assert ended == {"Complete"}, said
        if name == "doctor":
            assert json.loads(said[said.index("{") :])["store"]["writable"] == "yes", said
    finally:
        cluster.kubectl("delete", "job", run)


def _conditions(cluster: RealCluster, job: str) -> set[str]:
    status = json.loads(cluster.kubectl("get", "job", job, "-o", "json"))["status"]
    return {found["type"] for found in status.get("conditions", []) if found["status"] == "True"}
