"""The local stack: valid, pinned, open only on this machine; its S3 server runs with the file's arguments."""

import contextlib
import json
import os
import re
import shlex
import subprocess
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.exceptions import ClientError

from progdistill.store.s3 import S3Store
from tests.infra.tools import INFRA, ROOT, run, tool
from tests.store.s3_server import ports_for_a_server, server_binary

FOLDER = INFRA / "local"
STACK: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = STACK["services"]


def test_the_file_follows_the_compose_specification() -> None:
    done = run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", FOLDER / "compose.yaml")
    assert done.returncode == 0, done.stdout


def test_ports_are_open_on_this_machine_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_image_is_pinned_to_one_version() -> None:
    for service in SERVICES.values():
        assert re.search(r":v?\d+\.\d+", service["image"]), service["image"]


def test_what_runs_is_checked_and_what_waits_waits_for_health() -> None:
    for name, service in SERVICES.items():
        ends = service["restart"] == "no"
        assert ("healthcheck" in service) != ends, name
        for needed, how in service.get("depends_on", {}).items():
            ends = SERVICES[needed]["restart"] == "no"
            assert how["condition"] == ("service_completed_successfully" if ends else "service_healthy")


def test_secrets_come_from_the_environment_and_have_no_default() -> None:
    text = (FOLDER / "compose.yaml").read_text()
    asked = set(re.findall(r"\$\{(\w+)", text))
    assert all(f"${{{name}:?" in text for name in asked)
    example = dict(re.findall(r"^(\w+)=(.*)$", (FOLDER / ".env.example").read_text(), re.MULTILINE))
    assert set(example) == asked
    assert set(example.values()) == {""}
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|PSWD|SECRET|ACCESS_KEY", name):
                assert value.startswith("${"), name


def test_the_file_with_the_secrets_is_never_committed() -> None:
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
    assert (FOLDER / ".env.example").exists()


def test_the_profile_for_the_desk_leads_to_the_stack() -> None:
    profile = json.loads((INFRA / "metaflow" / "config_desk.json").read_text())
    published = {f"http://{port.rpartition(':')[0]}" for one in SERVICES.values() for port in one.get("ports", [])}
    addresses = {value for value in profile.values() if value.startswith("http")}
    assert addresses == published
    ui = SERVICES["ui"]["environment"]
    assert ui["METAFLOW_DATASTORE_SYSROOT_S3"] == profile["METAFLOW_DATASTORE_SYSROOT_S3"]


@pytest.fixture
def desk_server(tmp_path: Path) -> Any:
    """The S3 server with the file's own arguments, at another folder, address and ports; its endpoint."""
    others = ["-dir", "-ip", "-ip.bind", "-s3.port"]
    kept = [one for one in SERVICES["s3"]["command"] if one.split("=")[0] not in others]
    places = [f"-dir={tmp_path}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.port.iceberg=0"]
    keys = {"AWS_ACCESS_KEY_ID": "desk", "AWS_SECRET_ACCESS_KEY": "from-the-env-file"}
    assert set(keys) == set(SERVICES["s3"]["environment"])
    with ports_for_a_server() as ports:
        chosen = [f"-{part}.port={port}" for part, port in ports.items()]
        with open(tmp_path / "server.log", "wb") as log:
            process = subprocess.Popen(
                [server_binary(), *kept, *places, "-s3.port.lance=0", *chosen],
                env={**os.environ, **keys},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            yield process, f"http://127.0.0.1:{ports['s3']}", f"127.0.0.1:{ports['master']}", keys
        finally:
            process.kill()
            process.wait()


def _wait_for(endpoint: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Poll: the server says nothing when it is ready. Asking without a pause would take its port."""
    while process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError, HTTPException):
            urllib.request.urlopen(f"{endpoint}/healthz", timeout=5).close()
            return
        time.sleep(0.1)
    raise RuntimeError(f"the S3 server did not start:\n{log.read_text(errors='replace')[-2000:]}")


def test_the_s3_server_starts_makes_its_buckets_and_lets_only_the_keys_in(
    desk_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, endpoint, master, keys = desk_server
    (script,) = SERVICES["buckets"]["command"]
    script = script.replace("weed ", f"{shlex.quote(server_binary())} ").replace("s3:9333", master)
    _wait_for(endpoint, process, tmp_path / "server.log")
    subprocess.run(["/bin/sh", "-c", script], check=True, capture_output=True, timeout=200)
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("PROGDISTILL_CACHE", str(tmp_path / "cache"))
    S3Store("s3://progdistill/models").check_writable()
    buckets = {one["Name"] for one in boto3.session.Session().client("s3").list_buckets()["Buckets"]}
    assert buckets == {"metaflow", "progdistill"}
    stranger = boto3.session.Session().client("s3", aws_secret_access_key="wrong", aws_access_key_id="desk")
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        stranger.list_buckets()
