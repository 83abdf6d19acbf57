"""The commands of the CronJobs, with their environment, on a store in a real S3 server."""

import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from progdistill.store.open import mark_layout, open_store
from tests.infra.tools import of_kind
from tests.store.s3_server import ENVIRONMENT, s3_endpoint

__all__ = ["s3_endpoint"]

OVERLAY = "overlays/dev"


@pytest.fixture
def pod_environment(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the pod would have: the ConfigMap, the image's variables, and this test's server."""
    (settings,) = [one for one in of_kind(OVERLAY, "ConfigMap") if one["metadata"]["name"] == "progdistill"]
    values: dict[str, str] = settings["data"]
    assert values["PROGDISTILL_DATA"].startswith("/tmp/"), "the one place a pod can write to"
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL_S3": s3_endpoint}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PROGDISTILL_CACHE", str(tmp_path / "cache"))
    bucket = values["PROGDISTILL_STORE"].removeprefix("s3://").split("/")[0]
    boto3.session.Session().client("s3").create_bucket(Bucket=bucket)
    mark_layout(open_store(values["PROGDISTILL_STORE"]))
    mine = {"AWS_ENDPOINT_URL_S3": s3_endpoint, "PROGDISTILL_DATA": str(tmp_path / "data")}
    return {**os.environ, **values, **mine, "HOME": str(tmp_path)}


@pytest.mark.slow
def test_every_cronjob_does_its_work(pod_environment: dict[str, str], tmp_path: Path) -> None:
    jobs = {one["metadata"]["name"]: one for one in of_kind(OVERLAY, "CronJob")}
    assert set(jobs) == {"doctor", "verify", "collect-garbage", "reap", "metrics"}
    del jobs["reap"]  # tests/jobs/test_kubernetes_reap.py: it needs a cluster
    del jobs["metrics"]  # tests/run/test_watch.py: it needs a run
    said = {}
    for name, job in jobs.items():
        (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        program, *arguments = container["args"]
        assert program == "progdistill"
        done = subprocess.run(
            [sys.executable, "-m", "progdistill.cli.main", *arguments],
            env=pod_environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{name}: {done.stderr}"
        said[name] = done.stdout
    assert '"writable": "yes"' in said["doctor"]


def test_what_removes_something_waits_until_a_person_lets_it() -> None:
    suspended = {one["metadata"]["name"] for one in of_kind(OVERLAY, "CronJob") if one["spec"].get("suspend")}
    assert suspended == {"doctor", "collect-garbage", "metrics"}
