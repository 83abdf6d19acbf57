"""The cluster that KUBECONFIG names, with this project's namespace on it, in place of the test API server."""

import base64
import contextlib
import json
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from progdistill.config.cluster import ClusterSettings, StepResources
from progdistill.data.dataset import DatasetInfo
from progdistill.jobs.kubernetes.preflight import dataset_for_pods
from progdistill.store.open import open_store
from tests.bare_machine import removed
from tests.infra.tools import KUBERNETES, tool
from tests.jobs.kubernetes_jobs import OneJob, small_job

NAMESPACE = "progdistill"
SECRET = "progdistill-s3"
OURS = ("-l", "app.kubernetes.io/managed-by=progdistill")
SMALL = StepResources(hosts=2, cpu=0.3, memory_gib=2, disk_gib=2, shared_memory_gib=0.25)
GO = "/tmp/go"  # in a pod: an empty volume of its own

Object = dict[str, Any]


class RealCluster:
    """A cluster that its administrator lends to the tests; drivers have the token of their service account."""

    def __init__(self, folder: Path, administrator: Path, image: str, store: str) -> None:
        self.folder, self.image, self.store = folder, image, store
        self.administrator = administrator
        self.kubeconfig = self.account("progdistill-driver")

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """What kubectl prints, as the administrator in the namespace."""
        return kubectl(self.administrator, *arguments, stdin=stdin, check=check)

    def account(self, name: str) -> Path:
        """A kubeconfig with a service account's own token."""
        config = json.loads(self.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
        token = self.kubectl("create", "token", name, "--duration=4h").strip()
        config["users"] = [{"name": name, "user": {"token": token}}]
        config["contexts"][0]["context"] |= {"user": name, "namespace": NAMESPACE}
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(json.dumps(config))
        path.chmod(0o600)
        return path

    def objects(self, plural: str) -> list[Object]:
        """The launcher's objects of a resource."""
        items: list[Object] = json.loads(self.kubectl("get", plural, *OURS, "-o", "json"))["items"]
        return items

    def wait_for(self, predicate: Callable[[], Any], timeout_seconds: float = 250) -> Any:
        """Wait until `predicate()` is true and return what it gave."""
        deadline = time.monotonic() + timeout_seconds
        while not (found := predicate()):
            if time.monotonic() > deadline:
                events = self.kubectl("get", "events", "--sort-by=.lastTimestamp")
                raise TimeoutError(f"not so after {timeout_seconds} s; {self.kubectl('get', 'jobs,pods')}\n{events}")
            time.sleep(0.5)
        return found

    def was_told_to_stop(self, pod: Object) -> bool:
        """Whether the pod is being deleted, or is gone."""
        present = {item["metadata"]["uid"]: item for item in self.objects("pods")}
        found = present.get(pod["metadata"]["uid"])
        return found is None or "deletionTimestamp" in found["metadata"]

    def delete_job(self, name: str) -> None:
        """Somebody else deletes a job."""
        self.kubectl("delete", "job", name, "--wait=false")

    def evict(self, pod: Object) -> None:
        """Ask the eviction API, as a drain does."""
        name = pod["metadata"]["name"]
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": NAMESPACE}}
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction"
        self.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(body))

    def created_jobs(self, name: str) -> set[str]:
        """The uids of all Jobs of that name that got pods."""
        which = f"involvedObject.kind=Job,involvedObject.name={name},reason=SuccessfulCreate"
        events = json.loads(self.kubectl("get", "events", "--field-selector", which, "-o", "json"))
        return {event["involvedObject"]["uid"] for event in events["items"]}

    @contextlib.contextmanager
    def quota(self, resource: str, amount: str) -> Iterator[None]:
        """Another quota for a resource while the body runs."""
        read = ("get", "resourcequota", "progdistill", "-o", "json")
        usual = json.loads(self.kubectl(*read))["spec"]["hard"][resource]
        try:
            self._set_quota(resource, amount)
            yield
        finally:
            self._set_quota(resource, usual)

    def _set_quota(self, resource: str, amount: str) -> None:
        patch = json.dumps({"spec": {"hard": {resource: amount}}})
        self.kubectl("patch", "resourcequota", "progdistill", "--type=merge", "-p", patch)

    def forget_jobs(self) -> None:
        """Leave no Job, pod, Service or event to the next test."""
        self.kubectl("delete", "jobs,services", *OURS, "--wait=true")
        self.wait_for(lambda: not any(self.objects(kind) for kind in ("jobs", "pods", "services")))
        self.kubectl("delete", "events", "--all")


class RealJob(OneJob):
    """A job of two pods in that cluster."""

    cluster: RealCluster

    def __init__(self, cluster: RealCluster, folder: Path, digits: DatasetInfo) -> None:
        super().__init__(cluster, folder, digits)  # type: ignore[arg-type]
        self.store = open_store(f"{cluster.store}/{uuid.uuid4().hex}")
        self.settings = settings_of(cluster)
        self.request = small_job(self.store, digits)
        self._go = Path(GO)
        self._ended = threading.Event()

    def release(self, *stopping: Object) -> None:
        """Let held pods go on, and later ones pass: when those of them that are to stop have been told to."""
        self.cluster.wait_for(lambda: all(self.cluster.was_told_to_stop(pod) for pod in stopping))
        threading.Thread(target=self._release_all, daemon=True).start()

    def _release_all(self) -> None:
        released: set[str] = set()
        while not self._ended.wait(0.5):
            for pod in self.pods("Running"):
                if pod["metadata"]["uid"] not in released:
                    self.kill_or_do(pod, "touch", GO)
                    released.add(pod["metadata"]["uid"])

    def kill_or_do(self, pod: Object, *command: str) -> None:
        """Run a command in a pod, if it is there yet."""
        self.cluster.kubectl("exec", pod["metadata"]["name"], "--", *command, check=False)

    def kill_rank(self, pod: Object, number: int = signal.SIGKILL) -> None:
        """A signal for the pod's rank, and for nothing else in it."""
        program = f"""if True:
            import os, pathlib
            for folder in pathlib.Path("/proc").glob("[0-9]*"):
                if (folder / "comm").read_text().startswith("rank "):
                    os.kill(int(folder.name), {int(number)})
        """
        self.kill_or_do(pod, "python", "-P", "-c", program)

    def stop(self) -> None:
        """End all drivers, and leave nothing in the cluster."""
        self._ended.set()
        super().stop()
        self.cluster.forget_jobs()


def settings_of(cluster: RealCluster) -> ClusterSettings:
    """Two small hosts a job, with the store's credentials from a Secret."""
    return ClusterSettings(
        namespace=NAMESPACE,
        image=cluster.image,
        service_account="progdistill-worker",
        env={"OMP_NUM_THREADS": "1", **store_variables()},
        env_from_secrets=(SECRET,),
        train=SMALL,
        distill=SMALL,
        evaluate=SMALL.model_copy(update={"hosts": 1}),
    )


def store_variables() -> dict[str, str]:
    """What is no secret of the way to the store."""
    return {name: removed[name] for name in ("AWS_ENDPOINT_URL_S3", "AWS_REGION") if name in removed}


def kubectl(kubeconfig: Path, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
    """What kubectl prints; a failure is an AssertionError, or with check=False what it prints, too."""
    command = [tool("kubectl"), "--kubeconfig", str(kubeconfig), "-n", NAMESPACE, *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    assert done.returncode == 0 or not check, f"{' '.join(arguments)}: {done.stderr}"
    return done.stdout if done.returncode == 0 else done.stdout + done.stderr


def overlay(folder: Path, image: str, store: str) -> str:
    """Overlay `dev` with the image and the store of the tests, rendered."""
    name, _, tag = image.rpartition(":")
    variables = {"PROGDISTILL_STORE": store, "AWS_REGION": "us-east-1", **store_variables()}
    configuration = {"name": "progdistill", "namespace": NAMESPACE, "behavior": "merge"}
    configuration["literals"] = [f"{key}={value}" for key, value in variables.items()]  # type: ignore[assignment]
    small = {"requests": {"cpu": "200m", "memory": "1Gi", "ephemeral-storage": "1Gi"}}
    path = "/spec/jobTemplate/spec/template/spec/containers/0"
    changes = [
        {"op": "add", "path": f"{path}/envFrom/-", "value": {"secretRef": {"name": SECRET}}},
        {"op": "replace", "path": f"{path}/resources/requests", "value": small["requests"]},
        {"op": "add", "path": f"{path}/imagePullPolicy", "value": "IfNotPresent"},
    ]
    kustomization = {
        "resources": [os.path.relpath(KUBERNETES / "overlays/dev", folder), "store.yaml"],
        "configMapGenerator": [configuration],
        "generatorOptions": {"disableNameSuffixHash": True},
        "images": [{"name": "registry.example.com/progdistill", "newName": name, "newTag": tag}],
        "patches": [{"target": {"kind": "CronJob"}, "patch": yaml.safe_dump(changes)}],
    }
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    (folder / "store.yaml").write_text(yaml.safe_dump(_way_to_the_store()))
    load = ("--load-restrictor", "LoadRestrictionsNone")
    done = subprocess.run([tool("kubectl"), "kustomize", str(folder), *load], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _way_to_the_store() -> Object:
    """A policy that lets all pods reach an S3 server of one's own by its address, and a DNS server there."""
    url = urlsplit(removed.get("AWS_ENDPOINT_URL_S3", "https://192.0.2.1"))
    ports = [{"protocol": "TCP", "port": url.port or 443}, *({"protocol": p, "port": 53} for p in ("TCP", "UDP"))]
    rule = {"to": [{"ipBlock": {"cidr": f"{url.hostname}/32"}}], "ports": ports}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "store-of-the-tests", "namespace": NAMESPACE},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [rule]},
    }


@contextlib.contextmanager
def deployed(folder: Path, kubeconfig: Path, image: str, store: str) -> Iterator[RealCluster]:
    """The project's namespace, as documented, on that cluster while the body runs."""
    if "NotFound" not in kubectl(kubeconfig, "get", "namespace", NAMESPACE, check=False):
        pytest.exit(f"the cluster of {kubeconfig} has a namespace {NAMESPACE}: these tests would delete it", 2)
    rendered = overlay(folder / "overlay", image, store)
    apply = ("apply", "--server-side", "-f", "-")
    try:
        kubectl(kubeconfig, "create", "namespace", NAMESPACE)
        kubectl(kubeconfig, *apply, "--force-conflicts", stdin=rendered)
        kubectl(kubeconfig, *apply, stdin=json.dumps(_secret(removed)))
        yield RealCluster(folder, kubeconfig, image, store)
    finally:
        kubectl(kubeconfig, "delete", "--ignore-not-found", "-f", "-", stdin=rendered, check=False)


def _secret(environment: Mapping[str, str]) -> Object:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    data = {name: base64.b64encode(environment[name].encode()).decode() for name in names if name in environment}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": NAMESPACE}, "data": data}


def digits_for_pods(cluster: RealCluster, folder: Path) -> DatasetInfo:
    """The digits, where pods can read them."""
    return dataset_for_pods(settings_of(cluster), "digits", cluster.store, folder)
