"""The HTTP server: connections, responses, watches and log streams, with injected faults."""

import contextlib
import json
import os
import socket
import struct
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.kubernetes_api import errors
from tests.kubernetes_api.api import Answer, Api, Route, find_route, watch_events
from tests.kubernetes_api.errors import ApiError
from tests.kubernetes_api.faults import Fault, Faults
from tests.kubernetes_api.kubelet import Kubelet
from tests.kubernetes_api.objects import PODS, parse_time


@dataclass(frozen=True)
class Request:
    """One line of the request log; status 0 is a reset in place of an answer."""

    method: str
    path: str
    """Path and query."""
    status: int


class Server:
    """Listens on a loopback port; can stop answering and come back on the same one."""

    def __init__(self, api: Api, kubelet: Kubelet, faults: Faults, token: str) -> None:
        self.api, self.kubelet, self.faults, self.token = api, kubelet, faults, token
        self.requests: list[Request] = []
        # Bound to the port all along: no connection gets it while nobody listens there.
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind(("127.0.0.1", 0))
        self.port: int = self._place.getsockname()[1]
        self.stopping = threading.Event()
        self._http: _HttpServer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Open the port, the same one again and again."""
        self.stopping = threading.Event()
        self._http = _HttpServer(("127.0.0.1", self.port), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the port and every connection."""
        if self._http is None or self._thread is None:
            return
        self.stopping.set()
        self._http.shutdown()
        self._thread.join()
        self._http.close_connections()
        with self.api.storage.changed:
            self.api.storage.changed.notify_all()
        for log in list(self.kubelet.logs.values()):
            with log.changed:
                log.changed.notify_all()
        self._http.server_close()
        self._http = None

    def close(self) -> None:
        """Stop, and let others have the port."""
        self.stop()
        self._place.close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    request_queue_size = 64
    owner: Server

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error of the server; anything else is shown by the handler."""


class _Cut(Exception):
    """The stream breaks off here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HttpServer

    def _serve(self) -> None:
        owner = self.server.owner
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length) if length else b""
        fault = owner.faults.take(self.command, self.path, "answer", "reset")
        if fault is not None and not fault.after_work:
            self._befall(fault)
            return
        try:
            answer = self._answer(raw, fault)
        except ApiError as problem:
            answer = Answer(problem.code, problem)
        except (BrokenPipeError, ConnectionError, _Cut):
            self.close_connection = True
            return
        except Exception as problem:
            traceback.print_exc()
            answer = Answer(500, errors.of_code(500))
            owner.api.storage.problems.append(problem)
        if fault is not None:
            self._befall(fault)
        elif answer is not None:
            self._send(answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _answer(self, raw: bytes, fault: Fault | None) -> Answer | None:
        """Do the work; None when a stream has already been sent."""
        owner = self.server.owner
        path = urlsplit(self.path).path
        if self.headers.get("Authorization") != f"Bearer {owner.token}":
            raise errors.of_code(401)
        body = json.loads(raw) if raw else None
        if path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" and self.command == "POST":
            return owner.api.review(body)
        route = find_route(self.command, self.path)
        owner.api.access.check(route)
        if route.verb == "watch":
            self._stream(watch_events(owner.api.storage, route, owner.stopping), "application/json")
            return None
        if route.subresource == "log":
            lines = _log_lines(owner, route)
            if route.flag("follow"):
                self._stream(lines, "text/plain")
                return None
            return Answer(200, b"".join(lines))
        return owner.api.answer(route, body, (self.headers.get("Content-Type") or "").split(";")[0])

    def _send(self, answer: Answer) -> None:
        body, kind, retry_after = answer.body, "application/json", None
        if isinstance(body, ApiError):
            retry_after, body = body.retry_after, body.status()
        if isinstance(body, bytes):
            payload, kind = body, "text/plain"
        else:
            payload = json.dumps(body).encode()
        self._note(answer.code)
        with contextlib.suppress(ConnectionError):
            self.send_response(answer.code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(payload)))
            if retry_after is not None:
                self.send_header("Retry-After", str(retry_after))
            self.end_headers()
            self.wfile.write(payload)

    def _stream(self, pieces: Any, kind: str) -> None:
        """Send pieces in chunks until they end, a fault cuts the stream, or the server stops."""
        first = next(pieces, None)  # errors come before the status line
        cut = self.server.owner.faults.take("GET", self.path, "cut")
        self._note(200)
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        sent_bytes = sent_events = 0
        with contextlib.closing(pieces):
            while first is not None and not self.server.owner.stopping.is_set():
                room = len(first)
                if cut is not None:
                    if cut.after_bytes is not None:
                        room = min(room, cut.after_bytes - sent_bytes)
                    if cut.after_events is not None and sent_events >= cut.after_events:
                        room = 0
                self._chunk(first[:room])
                sent_bytes, sent_events = sent_bytes + room, sent_events + (room > 0)
                if cut is not None and (sent_bytes == cut.after_bytes or sent_events == cut.after_events):
                    raise _Cut
                self._check_connected()
                first = next(pieces, None)
        if self.server.owner.stopping.is_set():
            raise _Cut
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, piece: bytes) -> None:
        if piece:
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.flush()

    def _check_connected(self) -> None:
        """A client that hung up is seen here rather than at the next event."""
        self.connection.setblocking(False)
        try:
            if self.connection.recv(1, socket.MSG_PEEK) == b"":
                raise ConnectionResetError
        except BlockingIOError:
            pass
        finally:
            self.connection.setblocking(True)

    def _befall(self, fault: Fault) -> None:
        if fault.kind == "answer":
            self._send(Answer(fault.status, errors.of_code(fault.status, fault.retry_after)))
            return
        self._note(0)
        # Closing with no linger time sends RST, which a client sees as "connection reset by peer".
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True

    def _note(self, status: int) -> None:
        self.server.owner.requests.append(Request(self.command, self.path, status))

    def log_message(self, format: str, *args: object) -> None:
        """The request log is a list, not text on standard error."""


def _log_lines(server: Server, route: Route) -> Iterator[bytes]:
    """The log of a pod's container; 400 while the container waits, nothing before the pod is on a node."""
    pod = server.api.storage.get(PODS, route.namespace, route.name)
    name = pod["spec"]["containers"][0]["name"]
    if route.query.get("container", name) != name:
        raise errors.bad_request(f"container {route.query['container']} is not valid for pod {route.name}")
    if not pod["spec"].get("nodeName"):
        return iter(())
    state = (pod["status"].get("containerStatuses") or [{}])[0].get("state") or {}
    if not state or "waiting" in state:
        reason = state.get("waiting", {}).get("reason", "ContainerCreating")
        if reason in ("ErrImagePull", "ImagePullBackOff"):
            reason = "trying and failing to pull image"
        raise errors.bad_request(f'container "{name}" in pod "{route.name}" is waiting to start: {reason}')
    log = server.kubelet.logs.get(pod["metadata"]["uid"])
    if log is None:
        return iter(())
    since = None
    if route.query.get("sinceTime"):
        # The API server passes it on to the kubelet in whole seconds (registry/core/pod/strategy.go).
        since = parse_time(route.query["sinceTime"]).replace(microsecond=0)
    return log.read(follow=route.flag("follow"), since=since, timestamps=route.flag("timestamps"))
