"""A TCP proxy with real sockets that breaks a chosen HTTP request in a chosen way."""

import re
import socket
import socketserver
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import ClassVar, Self
from urllib.parse import urlsplit

PIECE = 64 * 1024


@dataclass
class Fault:
    """What happens to the requests whose first line matches `pattern`: to the first `times` of them."""

    pattern: str
    times: int = 1
    answer: bytes | None = None
    """Answer with this instead of the server."""
    reset_request_after: int | None = None
    """Pass on so many bytes of the request's body, then reset both connections."""
    flip_request_at: int | None = None
    """Flip a bit of this byte of the request's body."""
    cut_reply_after: int | None = None
    """Pass on so many bytes of the reply's body, then close as if that were all."""
    flip_reply_at: int | None = None
    """Flip a bit of this byte of the reply's body."""
    drop_header: str = ""
    """Pass the request on without this header."""
    lose_reply: bool = False
    """Let the server do its work, then reset the connection instead of passing the reply on."""


def error_answer(status: int, code: str) -> bytes:
    """An S3 error reply."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
    head = f"HTTP/1.1 {status} Injected\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


@dataclass
class FaultyProxy:
    """Forwards to `upstream`; `faults` may be changed at any time, `requests` are the first lines seen."""

    upstream: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                _Exchange(self.request, proxy).run()

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads: ClassVar[bool] = True  # type: ignore[misc]

        self._server = Server(("127.0.0.1", 0), Handler)
        self._lock = threading.Lock()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def seen(self, pattern: str) -> list[str]:
        """The first lines seen so far that match."""
        return [line for line in self.requests if re.search(pattern, line)]

    def connect_upstream(self) -> socket.socket:
        """A new connection to the server behind."""
        address = urlsplit(self.upstream)
        assert address.hostname is not None and address.port is not None
        return socket.create_connection((address.hostname, address.port))

    def fault_for(self, line: str) -> Fault:
        """Record a request and choose its fault; one without effect if none is left for it."""
        with self._lock:
            self.requests.append(line)
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, line):
                    fault.times -= 1
                    return fault
        return Fault(pattern="")


class _Exchange:
    """One request and its reply on connections of their own."""

    def __init__(self, client: socket.socket, proxy: FaultyProxy) -> None:
        self._client, self._proxy = client, proxy

    def run(self) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            piece = self._client.recv(PIECE)
            if not piece:
                return
            received += piece
        head, _, body = received.partition(b"\r\n\r\n")
        line, _, fields = head.decode("latin-1").partition("\r\n")
        fault = self._proxy.fault_for(line)
        if fault.answer is not None:
            self._answer(fault.answer, fields, len(body))
            return
        with self._proxy.connect_upstream() as server:
            dropped = ("connection:", *([f"{fault.drop_header}:"] if fault.drop_header else []))
            kept = [f for f in fields.split("\r\n") if not f.lower().startswith(dropped)]
            server.sendall("\r\n".join([line, *kept, "Connection: close", "", ""]).encode("latin-1"))
            uploading = threading.Thread(target=self._upload, args=(server, body, fault), daemon=True)
            uploading.start()
            self._reply(server, fault)

    def _answer(self, answer: bytes, fields: str, received: int) -> None:
        """Answer at once if the client waits for a go-ahead, else after taking in the whole body."""
        length = re.search(r"(?im)^content-length: *(\d+)", fields)
        missing = int(length[1]) - received if length and "100-continue" not in fields.lower() else 0
        while missing > 0 and (piece := self._client.recv(PIECE)):
            missing -= len(piece)
        self._client.sendall(answer)

    def _upload(self, server: socket.socket, first: bytes, fault: Fault) -> None:
        passed, piece = 0, first
        try:
            while True:
                if fault.reset_request_after is not None and passed + len(piece) > fault.reset_request_after:
                    server.sendall(piece[: fault.reset_request_after - passed])
                    _reset(server)
                    _reset(self._client)
                    return
                server.sendall(_flipped(piece, passed, fault.flip_request_at))
                passed += len(piece)
                piece = self._client.recv(PIECE)
                if not piece:
                    return
        except OSError:
            return  # The reply came first, or the client went away.

    def _reply(self, server: socket.socket, fault: Fault) -> None:
        try:
            head, piece = _read_head(server)
            while head.startswith(b"HTTP/1.1 100"):
                self._client.sendall(head)
                head, piece = _read_head(server, piece)
            if fault.lose_reply:
                _reset(self._client)
                return
            self._client.sendall(head)
            passed = 0
            while piece:
                self._client.sendall(_spoiled(piece, passed, fault))
                passed += len(piece)
                if fault.cut_reply_after is not None and passed > fault.cut_reply_after:
                    return
                piece = server.recv(PIECE)
        except OSError:
            return  # One side went away.


def _read_head(server: socket.socket, received: bytes = b"") -> tuple[bytes, bytes]:
    """The head of a reply, and what has arrived after it."""
    while b"\r\n\r\n" not in received:
        piece = server.recv(PIECE)
        if not piece:
            raise ConnectionError("the server closed before its reply")
        received += piece
    end = received.index(b"\r\n\r\n") + 4
    return received[:end], received[end:]


def _spoiled(piece: bytes, offset: int, fault: Fault) -> bytes:
    """A piece of a reply's body at `offset`, cut or with a flipped bit as the fault says."""
    piece = _flipped(piece, offset, fault.flip_reply_at)
    if fault.cut_reply_after is not None:
        piece = piece[: max(0, fault.cut_reply_after - offset)]
    return piece


def _flipped(piece: bytes, offset: int, at: int | None) -> bytes:
    """The piece of a body at `offset`, with a bit flipped if it holds byte `at`."""
    if at is None or not offset <= at < offset + len(piece):
        return piece
    changed = bytearray(piece)
    changed[at - offset] ^= 1
    return bytes(changed)


def _reset(connection: socket.socket) -> None:
    """Close so that the other side sees `connection reset by peer`, waking a thread that reads from it."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RD)
    connection.close()
