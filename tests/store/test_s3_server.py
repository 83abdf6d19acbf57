"""The S3 server of the tests starts whatever this machine runs and has configured."""

import socket
import urllib.request
from pathlib import Path

import pytest

from tests.store import s3_server
from tests.store.s3_server import PARTS, ports_for_a_server, running_server, sockets_of


class Drawing:
    """Gives these numbers in a row."""

    def __init__(self, *numbers: int) -> None:
        self._numbers = iter(numbers)

    def choice(self, among: range) -> int:
        return next(self._numbers)


def draw(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """From now on these are drawn, in a row."""
    drawing = Drawing(*numbers)
    monkeypatch.setattr(s3_server.random, "SystemRandom", lambda: drawing)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ports that a server could have, below those of the servers that other tests start meanwhile."""
    with monkeypatch.context() as below:
        below.setattr(s3_server, "PORTS", range(1_024, 2_000))
        with ports_for_a_server() as some, ports_for_a_server() as more:
            return [*some.values(), *more.values()]


def test_no_server_gets_a_port_that_another_has(free: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one of two parts the other's, nor one whose gRPC would find its own in use."""
    count = len(PARTS)
    with socket.socket() as taken, ports_for_a_server() as others:
        taken.bind(("127.0.0.1", free[0] + 10_000))
        draw(monkeypatch, *others.values(), free[0], free[1], *free[1 : 1 + count])
        with ports_for_a_server() as ports:
            assert [*ports.values()] == free[1 : 1 + count]


def test_a_port_of_which_a_killed_server_left_a_socket_is_left_alone(
    free: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's could neither be used nor removed."""
    left = Path(f"/tmp/seaweedfs-volume-grpc-{free[0] + 10_000}.sock")
    left.touch()
    try:
        draw(monkeypatch, *free)
        with ports_for_a_server() as ports:
            assert [*ports.values()] == free[1 : 1 + len(PARTS)]
        assert left.exists()
    finally:
        left.unlink()


def test_a_server_leaves_no_sockets(tmp_path: Path) -> None:
    with running_server(tmp_path) as endpoint:
        port = int(endpoint.rsplit(":")[-1])
        assert sockets_of(port)
    assert not sockets_of(port)


def test_keys_in_the_environment_keep_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with running_server(tmp_path) as endpoint:
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/another", method="PUT")).close()
