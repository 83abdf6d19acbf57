"""The S3 server of the tests starts whatever else this machine does and has set up."""

import socket
import urllib.request
from pathlib import Path

import pytest

from tests.artifacts import s3_server
from tests.artifacts.s3_server import free_ports, running_server, sockets_of


class Drawing:
    """Draws these numbers in a row."""

    def __init__(self, *numbers: int) -> None:
        self._numbers = iter(numbers)

    def randrange(self, least: int, above: int) -> int:
        return next(self._numbers)


def test_no_two_parts_of_a_server_get_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn in a row: a port, itself again, the one that its gRPC has, and another."""
    first, other = free_ports(2)
    drawing = Drawing(first, first, first + 10_000, other)
    monkeypatch.setattr(s3_server.random, "SystemRandom", lambda: drawing)
    assert free_ports(2) == [first, other]


def test_a_port_of_which_a_killed_server_left_a_socket_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's could neither be used nor removed."""
    used, other = free_ports(2)
    left = Path(f"/tmp/seaweedfs-volume-grpc-{used + 10_000}.sock")
    left.touch()
    try:
        drawing = Drawing(used, other)
        monkeypatch.setattr(s3_server.random, "SystemRandom", lambda: drawing)
        assert free_ports(1) == [other]
    finally:
        left.unlink()


def test_a_server_leaves_no_sockets(tmp_path: Path) -> None:
    with running_server(tmp_path) as endpoint:
        port = int(endpoint.rsplit(":")[-1])
        assert sockets_of(port)
    assert not sockets_of(port)


def test_a_port_that_somebody_takes_at_the_last_moment_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        answers = iter([[*free_ports(4), taken.getsockname()[1]], free_ports(5)])
        monkeypatch.setattr(s3_server, "free_ports", lambda count: next(answers))
        with running_server(tmp_path):
            assert next(answers, None) is None


def test_keys_in_the_environment_keep_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with running_server(tmp_path) as endpoint:
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/another", method="PUT")).close()
