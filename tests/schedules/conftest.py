"""The flow compiled for Argo Workflows against a real S3 server."""

import json
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.running import command, environment
from tests.store.s3_server import ENVIRONMENT, s3_endpoint

__all__ = ["s3_endpoint"]

DEPLOYMENT = """
cron = "30 2 * * 1-5"
timezone = "Europe/Vienna"
image = "registry.example/progdistill@sha256:0"
service_account = "progdistill-driver"
secrets = ["progdistill-s3"]
environment = { AWS_ENDPOINT_URL_S3 = "https://s3.example" }
node_selector = { pool = "drivers" }
tolerations = [{ key = "drivers", operator = "Exists" }]
labels = { team = "vision" }
pod = { cpu = 0.5, memory_mib = 2048 }
steps.report = { memory_mib = 8192, retries = 0, timeout_minutes = 90 }

[options]
reproduce = "production"
updates-per-stage = 7
set = { "distill.learning_rate" = 0.0005, "snapshots.keep" = 1 }
"""


def datastore(endpoint: str, **extra: str) -> dict[str, str]:
    """Variables of a machine whose Metaflow profile leads to the bucket `flows` of a server."""
    return environment(
        **ENVIRONMENT,
        AWS_ENDPOINT_URL_S3=endpoint,
        METAFLOW_S3_ENDPOINT_URL=endpoint,
        METAFLOW_DATASTORE_SYSROOT_S3="s3://flows/metaflow",
        **extra,
    )


@pytest.fixture(scope="session")
def flows_bucket(s3_endpoint: str) -> str:
    """The endpoint, with a bucket `flows`."""
    urllib.request.urlopen(urllib.request.Request(f"{s3_endpoint}/flows", method="PUT")).close()
    return s3_endpoint


@pytest.fixture
def access(flows_bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The endpoint of the bucket; this process's environment leads to it."""
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL_S3": flows_bucket}.items():
        monkeypatch.setenv(name, value)
    return flows_bucket


def compile_flow(endpoint: str, folder: Path, *arguments: str, **extra: str) -> "subprocess.CompletedProcess[str]":
    """`argo-workflows create --only-json`, after options that stand before it."""
    line = command(*arguments, "--datastore", "s3", "argo-workflows", "create", "--only-json")
    return subprocess.run(line, cwd=folder, env=datastore(endpoint, **extra), capture_output=True, text=True)


@pytest.fixture(scope="session")
def compiled(flows_bucket: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The workflow template of DEPLOYMENT, made where a secret is in the environment."""
    folder = tmp_path_factory.mktemp("deploying")
    (folder / "deployment.toml").write_text(DEPLOYMENT)
    done = compile_flow(
        flows_bucket,
        folder,
        *("--config", "deployment", "deployment.toml"),
        AWS_SESSION_TOKEN="a-value-nobody-may-read",
        METAFLOW_SERVICE_AUTH_KEY="a-value-nobody-may-read",
        PROGDISTILL_STORE="s3://models/team",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    template: dict[str, Any] = json.loads(done.stdout)
    return template


def templates_of(template: dict[str, Any]) -> dict[str, Any]:
    """The parts of a workflow by name."""
    return {one["name"]: one for one in template["spec"]["templates"]}


def pods_of(template: dict[str, Any]) -> dict[str, Any]:
    """The parts that run a step of the flow in a pod, by the step's name."""
    found = {}
    for one in templates_of(template).values():
        step = one.get("metadata", {}).get("annotations", {}).get("metaflow/step_name")
        if step:
            found[step] = one
    return found


def parameters_of(template: dict[str, Any]) -> dict[str, Any]:
    """Defaults of the run options."""
    return {one["name"]: json.loads(one["value"]) for one in template["spec"]["arguments"]["parameters"]}
