"""The whole flow in the pods of a cluster, with Metaflow's datastore and the store in S3; killed and resumed."""

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.running import SMALL, command, environment, ids_of, run_flow
from tests.jobs.kubernetes_jobs import IMAGE, create_secret, node_environment
from tests.kubernetes_api import Cluster, Node, running_cluster
from tests.store.s3_server import BUCKET, ENVIRONMENT, s3_endpoint

__all__ = ["s3_endpoint"]

RUN = ("--ladder", "4:2", *SMALL, "--set", "snapshots.interval_updates=2")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster whose pods find the bucket's credentials in a Secret."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    nodes = (Node("node-1", cpu=64, memory_gib=256), Node("node-2", cpu=64, memory_gib=256))
    with running_cluster(folder, nodes=nodes, node_environment=node_environment()) as running:
        create_secret(running, "s3", ENVIRONMENT)
        yield running


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_and_resumed_it_gives_the_checkpoints_of_two_local_ranks(
    cluster: Cluster, s3_endpoint: str, tmp_path: Path
) -> None:
    place = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    here, local = tmp_path / "cluster-run", tmp_path / "local-run"
    here.mkdir()
    local.mkdir()
    pods = {"AWS_ENDPOINT_URL_S3": s3_endpoint, "PROGDISTILL_CACHE": str(tmp_path / "cache")}
    (here / "progdistill.toml").write_text(
        f"""
        launcher = "kubernetes"
        store = "{place}/models"
        [set]
        "cluster.image" = "{IMAGE}"
        "cluster.env_from_secrets" = ["s3"]
        "cluster.env" = {{ {", ".join(f'{name} = "{value}"' for name, value in pods.items())} }}
        "cluster.train.hosts" = 2
        "cluster.distill.hosts" = 2
        """
    )
    access = {
        **ENVIRONMENT,
        "AWS_ENDPOINT_URL_S3": s3_endpoint,
        "KUBECONFIG": str(cluster.kubeconfig),
        "METAFLOW_DATASTORE_SYSROOT_S3": f"{place}/metaflow",
        "METAFLOW_S3_ENDPOINT_URL": s3_endpoint,
    }
    with open(tmp_path / "log", "w") as log:
        started = subprocess.Popen(
            command("--datastore", "s3", "run", *RUN),
            cwd=here,
            env=environment(**access),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def distilling() -> bool:
        return started.poll() is not None or any(
            pod["metadata"]["labels"]["progdistill/kind"] == "distill" for pod in cluster.objects("pods")
        )

    cluster.wait_for(distilling, timeout_seconds=200)
    assert started.poll() is None, (tmp_path / "log").read_text()
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    run_id = (here / ".metaflow" / "DistillFlow" / "latest_run").read_text().strip()
    resumed = run_flow(here, "--datastore", "s3", "resume", "--origin-run-id", run_id, **access)
    assert resumed.returncode == 0, resumed.stdout[-3000:] + resumed.stderr[-3000:]

    alone = run_flow(local, "run", *RUN, "--set", "compute.world_size=2")
    assert alone.returncode == 0, alone.stdout[-2000:] + alone.stderr[-2000:]
    assert ids_of(here) == ids_of(local)
    left = [job["status"]["conditions"][-1]["type"] for job in cluster.objects("jobs")]
    assert set(left) <= {"Complete"}  # what ended while nobody watched goes after its ttl
