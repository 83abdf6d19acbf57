"""The flow on the Argo Workflows of a real cluster."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.bare_machine import removed
from tests.cluster.real import NAMESPACE, SECRET, RealCluster, settings_of, store_variables
from tests.end_to_end.running import command, environment
from tests.infra.tools import INFRA

WEBHOOK = "webhook"
"""A pod, a Secret with its URL, and a policy that lets others reach it."""

_SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        print(self.rfile.read(int(self.headers["Content-Length"])).decode(), flush=True)
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("", 8080), Handler).serve_forever()
"""


def deployment(cluster: RealCluster, **options: Any) -> dict[str, Any]:
    """The shipped deployment with small pods, a tiny run, and the cluster of the tests."""
    from progdistill.models_base import parse_toml

    shipped: dict[str, Any] = parse_toml((INFRA / "deployment.toml").read_text())
    jobs = settings_of(cluster).model_dump(mode="json", exclude_defaults=True)
    for name in ("node_selector", "tolerations"):
        del shipped[name]
    tiny = {"ladder": "2:1", "base-updates": 20, "updates-per-stage": 10}
    settings = {f"cluster.{key}": value for key, value in jobs.items()}
    settings |= {"evaluation.samples": 50, "compute.device": "cpu"}
    return {
        **shipped,
        "cron": "",
        "image": cluster.image,
        "image_pull_policy": "IfNotPresent",
        "secrets": [SECRET, WEBHOOK],
        "environment": store_variables(),
        "pod": {"cpu": 0.2, "memory_mib": 1500, "disk_mib": 2000, "retries": 2, "minutes_between_retries": 0},
        "options": {"store": cluster.store, "launcher": "kubernetes", "set": settings, **tiny, **options},
    }


def argo_command(cluster: RealCluster, folder: Path, *arguments: str, **options: Any) -> str:
    """What `argo-workflows` prints, for the deployment with these options."""
    (folder / "deployment.json").write_text(json.dumps(deployment(cluster, **options)))
    credentials = {name: value for name, value in removed.items() if name.startswith("AWS_")}
    metaflow = {
        "METAFLOW_DATASTORE_SYSROOT_S3": f"{cluster.store}/metaflow",
        "METAFLOW_KUBERNETES_NAMESPACE": NAMESPACE,
        "METAFLOW_KUBERNETES_FETCH_EC2_METADATA": "0",
    }
    if "AWS_ENDPOINT_URL_S3" in credentials:
        metaflow["METAFLOW_S3_ENDPOINT_URL"] = credentials["AWS_ENDPOINT_URL_S3"]
    done = subprocess.run(
        command("--config", "deployment", "deployment.json", "--datastore", "s3", "argo-workflows", *arguments),
        cwd=folder,
        env=environment(**credentials, **metaflow, KUBECONFIG=removed["KUBECONFIG"], METAFLOW_HOME=str(folder)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def start(cluster: RealCluster) -> str:
    """Start a workflow of the deployed template, as its schedule does; its name."""
    template = "distillflow"
    workflow = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"generateName": f"{template}-"},
        "spec": {"workflowTemplateRef": {"name": template}},
    }
    return cluster.kubectl("create", "-f", "-", "-o", "name", stdin=json.dumps(workflow)).strip().partition("/")[2]


def pods_of_step(cluster: RealCluster, name: str, step: str) -> list[str]:
    """Running pods of a step of the flow."""
    selector = ("-l", f"workflows.argoproj.io/workflow={name}", "--field-selector", "status.phase=Running")
    pods = json.loads(cluster.kubectl("get", "pods", *selector, "-o", "json"))["items"]
    key = "metaflow/step_name"
    return [pod["metadata"]["name"] for pod in pods if pod["metadata"]["annotations"].get(key) == step]


def ended(cluster: RealCluster, name: str, seconds: float = 1800) -> dict[str, Any]:
    """Wait for the end of a workflow; its status."""
    deadline = time.monotonic() + seconds
    while True:
        found = cluster.kubectl("get", "workflow", name, "-o", "json", check=False)  # the API server may be busy
        status: dict[str, Any] = json.loads(found).get("status", {}) if found.startswith("{") else {}
        if status.get("phase") in ("Succeeded", "Failed", "Error"):
            return status
        assert time.monotonic() < deadline, json.dumps(status)[-5000:]
        time.sleep(2)


def receive_messages(cluster: RealCluster) -> None:
    """Start a webhook in the namespace, and put its URL into a Secret."""
    container = {
        "name": WEBHOOK,
        "image": cluster.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", _SERVER],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"containers": [container], "securityContext": security, "automountServiceAccountToken": False}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": WEBHOOK}, "spec": spec}
    among, port = [{"podSelector": {}}], [{"protocol": "TCP", "port": 8080}]
    rules = {"ingress": [{"from": among, "ports": port}], "egress": [{"to": among, "ports": port}]}
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": WEBHOOK}}
    policy["spec"] = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], **rules}
    apply = ("apply", "--server-side", "-f", "-")
    for one in (pod, policy):
        cluster.kubectl(*apply, stdin=json.dumps(one))
    cluster.kubectl("wait", "--for=condition=Ready", f"pod/{WEBHOOK}", "--timeout=300s")
    address = cluster.kubectl("get", "pod", WEBHOOK, "-o", "jsonpath={.status.podIP}")
    values = {"PROGDISTILL_NOTIFY_WEBHOOK": f"http://{address}:8080/"}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": WEBHOOK}, "stringData": values}
    cluster.kubectl(*apply, stdin=json.dumps(secret))


def messages(cluster: RealCluster) -> str:
    """What the webhook got so far."""
    return cluster.kubectl("logs", WEBHOOK)
