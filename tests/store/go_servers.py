"""Other servers than SeaweedFS, built once a machine from their public Go modules; needs Go."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import requests
from botocore.exceptions import BotoCoreError, ClientError

from tests import bare_machine
from tests.store.s3_server import BUCKET, ENVIRONMENT

MODULES = {
    "fake-gcs-server": "github.com/fsouza/fake-gcs-server@v1.56.1",
    "minio": "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c",
    "versitygw": "github.com/versity/versitygw/cmd/versitygw@v1.8.0",
}
KEY, SECRET = ENVIRONMENT["AWS_ACCESS_KEY_ID"], ENVIRONMENT["AWS_SECRET_ACCESS_KEY"]


def binary(name: str) -> Path:
    """Path of the server's program, after minutes where it has to be built."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "progdistill-test-servers")
    if not (folder / name).exists():
        go = shutil.which("go")
        assert go is not None, "Go is missing: install it from https://go.dev"
        folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "GOBIN": str(folder), "CGO_ENABLED": "0"}
        subprocess.run([go, "install", "-ldflags", "-s -w", MODULES[name]], env=environment, check=True)
    return folder / name


def _command(name: str, program: Path, address: str, folder: Path) -> list[str | Path]:
    """The command line; `versitygw-nometa` keeps no metadata, and ignores conditions on writes."""
    if name == "minio":
        return [program, "server", "--quiet", "--address", address, folder]
    nometa = ["--nometa"] if name.endswith("nometa") else []
    return [program, "--access", KEY, "--secret", SECRET, "--port", address, "posix", *nometa, folder]


@contextlib.contextmanager
def running_go_server(name: str, folder: Path) -> Iterator[str]:
    """Run a server with its data in `folder` and a bucket in it; gives its endpoint."""
    program = binary(name.removesuffix("-nometa"))
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{place.getsockname()[1]}"
    environment = {**os.environ, "MINIO_ROOT_USER": KEY, "MINIO_ROOT_PASSWORD": SECRET}
    bare_machine.clear(environment)
    data, log = folder / "data", folder / "server.log"
    data.mkdir()
    with log.open("wb") as output:
        command = _command(name, program, address, data)
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        _make_bucket(process, f"http://{address}", log)
        yield f"http://{address}"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def running_gcs_emulator() -> Iterator[str]:
    """Run an emulator of Google Cloud Storage with a bucket in it; gives the endpoint."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    listen = ["-host", "127.0.0.1", "-port", str(port), "-public-host", f"127.0.0.1:{port}", "-external-url", endpoint]
    command = [binary("fake-gcs-server"), "-scheme", "http", "-backend", "memory", "-log-level", "error", *listen]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                requests.post(f"{endpoint}/storage/v1/b", json={"name": BUCKET}, timeout=10).raise_for_status()
                break
            except requests.RequestException:
                assert time.monotonic() < deadline and process.poll() is None, "the emulator made no bucket"
            time.sleep(0.1)
        yield endpoint
    finally:
        process.kill()
        process.wait()


def _make_bucket(process: "subprocess.Popen[bytes]", endpoint: str, log: Path) -> None:
    session = boto3.session.Session(KEY, SECRET, region_name=ENVIRONMENT["AWS_REGION"])
    client = session.client("s3", endpoint_url=endpoint)
    deadline = time.monotonic() + 120
    problem = ""
    while time.monotonic() < deadline and process.poll() is None:
        try:
            client.create_bucket(Bucket=BUCKET)
            return
        except (BotoCoreError, ClientError) as error:
            problem = str(error)
        time.sleep(0.1)
    raise RuntimeError(f"the server made no bucket ({problem}):\n{log.read_text(errors='replace')[-2000:]}")
