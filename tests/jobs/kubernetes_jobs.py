"""A test cluster, a small job in two pods, and its drivers as processes that can be killed."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from progdistill.config.cluster import ClusterSettings, StepResources
from progdistill.data.dataset import DatasetInfo, find_dataset
from progdistill.jobs.kubernetes.manifest import Submission, submission_for
from progdistill.jobs.local import LocalLauncher
from progdistill.jobs.result_cache import complete
from progdistill.jobs.spec import CheckpointOutput, JobRequest
from progdistill.store.base import Store
from progdistill.store.open import open_store
from tests.jobs.asking import base_of_two_ranks
from tests.kubernetes_api import Cluster, Node, running_cluster

ROOT = Path(__file__).parents[2]
IMAGE = "registry.example/progdistill@sha256:" + "0" * 64


def node_environment(**extra: str) -> dict[str, str]:
    """What the image of every pod has: this interpreter as `python`, and this package."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **extra}


def create_secret(cluster: Cluster, name: str, values: Mapping[str, str]) -> None:
    """Create a Secret, for pods to take as variables."""
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    create(cluster, "secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data})


def create(cluster: Cluster, plural: str, manifest: dict[str, Any]) -> None:
    """Create an object of the core group in the namespace `default`."""
    request = Request(
        f"{cluster.url}/api/v1/namespaces/default/{plural}",
        data=json.dumps(manifest).encode(),
        headers={"Authorization": "Bearer test-token", "Content-Type": "application/json"},
    )
    urlopen(request).close()


def small_job(store: Store, digits: DatasetInfo) -> JobRequest:
    """Ask for a base model on two hosts.

    Pods of tests that run at once must not meet: all share a machine, and a port comes from the id.
    """
    return base_of_two_ranks(store, digits, seed=os.getpid())


class OneJob:
    """A job of two pods, its store, its cluster, and the processes that drive it."""

    def __init__(self, cluster: Cluster, folder: Path, digits: DatasetInfo) -> None:
        self.cluster, self.folder = cluster, folder
        self.store: Store = open_store(str(folder / "store"))
        self.settings = ClusterSettings(
            image=IMAGE,
            train=StepResources(hosts=2, cpu=1, memory_gib=1, disk_gib=1),
            env={"PROGDISTILL_CACHE": str(folder / "cache"), "HOME": str(folder)},
        )
        self.request = small_job(self.store, digits)
        self._drivers: list[subprocess.Popen[str]] = []
        self._go = folder / "go"

    @property
    def submission(self) -> Submission:
        return submission_for(self.request, self.settings, self.store)

    @property
    def namespace(self) -> str:
        """Of the Job."""
        return self.settings.namespace or "default"

    @property
    def name(self) -> str:
        """Of the Job."""
        return self.submission.name

    def change(self, **changes: Any) -> None:
        """Change cluster settings."""
        self.settings = ClusterSettings.model_validate({**self.settings.model_dump(), **changes})

    def drive(self, program: Sequence[str] = ("-m", "tests.jobs.driver")) -> "subprocess.Popen[str]":
        """Start a driver."""
        path = self.folder / f"driver-{len(self._drivers)}.json"
        facts = {"request": self.request.model_dump(mode="json"), "logs": str(self.folder / "logs")}
        path.write_text(json.dumps({**facts, "cluster": self.settings.model_dump(mode="json")}))
        environment = {**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig), "PYTHONPATH": str(ROOT)}
        self._drivers.append(
            subprocess.Popen(
                [sys.executable, *program, str(path)],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return self._drivers[-1]

    def pods(self, phase: str | None = None) -> list[dict[str, Any]]:
        """Pods that exist, in a phase if one is given, by index."""
        index = "batch.kubernetes.io/job-completion-index"
        pods = [pod for pod in self.cluster.objects("pods") if phase in (None, pod["status"]["phase"])]
        return sorted(pods, key=lambda pod: int(pod["metadata"]["labels"][index]))

    def hold(self, update: int = 5) -> None:
        """Every pod says in its log that it is in that update, and stays there until `release`."""
        fault = f"hold:training.update@{update}:{self._go}"
        self.change(env={**self.settings.env, "PROGDISTILL_FAULT": fault})

    def release(self, *stopping: dict[str, Any]) -> None:
        """Let held pods go on, and later ones pass: when those of them that are to stop have been told to."""
        self.cluster.wait_for(lambda: all(self.cluster.was_told_to_stop(pod) for pod in stopping))
        self._go.touch()

    def wait_for_line(self, driver: "subprocess.Popen[str]", text: str) -> str:
        """What a driver says up to the line with that text."""
        said = ""
        assert driver.stderr is not None
        for line in driver.stderr:
            said += line
            if text in line:
                return said
        raise AssertionError(f"{text!r} was never said:\n{said}")

    def stop(self) -> None:
        """End all drivers."""
        for driver in self._drivers:
            driver.kill()
            driver.communicate()


def finished(driver: "subprocess.Popen[str]", seconds: float = 250) -> tuple[int, str, str]:
    """How a driver ended: its status, the result it printed, and what it said."""
    out, err = driver.communicate(timeout=seconds)
    return driver.returncode, out.strip(), err


@pytest.fixture(scope="session")
def cluster_digits(tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    return find_dataset("digits", tmp_path_factory.mktemp("data"))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of one large node."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    nodes = (Node("node-1", cpu=64, memory_gib=256),)
    with running_cluster(folder, nodes=nodes, node_environment=node_environment()) as running:
        yield running


@pytest.fixture
def job(cluster: Cluster, tmp_path: Path, cluster_digits: DatasetInfo) -> Iterator[OneJob]:
    one = OneJob(cluster, tmp_path, cluster_digits)
    yield one
    one.stop()


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory, cluster_digits: DatasetInfo) -> str:
    """The checkpoint that the local launcher makes of the same job with two ranks."""
    folder = tmp_path_factory.mktemp("local")
    store = open_store(str(folder / "store"))
    request = small_job(store, cluster_digits)
    result = complete(store, LocalLauncher(folder / "logs"), request).result
    return result.output_of(CheckpointOutput).checkpoint_id
