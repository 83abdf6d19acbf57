"""A process that has imported torch once and forks a worker for each job of a run on this machine.

Importing torch takes two seconds, in a run of digits a tenth of a stage. The flow's own process starts a
nursery (`nursery()`), whose address the steps inherit; where there is none, or it fails, workers are started
afresh. The nursery ends with the process that started it, however that ends; workers that it leaves behind
tell their status themselves.
"""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from progdistill.jobs.ranks import env_without_rank_vars

VARIABLE = "PROGDISTILL_NURSERY"
"""Environment variable with the path of the nursery's Unix socket."""

_MESSAGE_BYTES = 1 << 20


@contextmanager
def nursery() -> Iterator[None]:
    """Run a nursery beside the body; steps started in it find its address in their environment."""
    with tempfile.TemporaryDirectory(prefix="progdistill-") as folder:
        address = os.path.join(folder, "nursery")
        server = _start_at(address)
        if server is None:
            yield
            return
        os.environ[VARIABLE] = address
        try:
            yield
        finally:
            del os.environ[VARIABLE]
            assert server.stdin is not None
            server.stdin.close()
            server.wait()


def _start_at(address: str) -> "subprocess.Popen[bytes] | None":
    try:
        # Bound here, so that whoever connects early waits for the nursery to be ready.
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            with short_path(address) as path:
                listener.bind(path)
            listener.listen()
            return subprocess.Popen(
                [sys.executable, "-m", "progdistill.jobs.forkserver", str(listener.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
            )
    except OSError:  # such as a temporary folder on a file system that holds no sockets
        return None


@contextmanager
def short_path(address: str) -> Iterator[str]:
    """The address by way of its folder's descriptor: Linux takes 107 bytes, and a folder may be deeper."""
    folder = os.open(os.path.dirname(address), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{os.path.basename(address)}"
    finally:
        os.close(folder)


class HatchedWorker:
    """A worker forked by a nursery, with the part of Popen's interface that a launcher uses."""

    def __init__(self, connection: socket.socket, output: int, pid: int) -> None:
        self._connection, self.pid = connection, pid
        self._status: int | None = None
        self.stdout = os.fdopen(output, "r", errors="replace")

    def poll(self) -> int | None:
        """The exit status, negative for a signal, or None while it runs."""
        # Asked of this one call, not of the socket: a signal's handler may poll while wait() is waiting.
        with suppress(BlockingIOError):
            self._receive(socket.MSG_DONTWAIT)
        return self._status

    def wait(self) -> int:
        """Wait for the exit status."""
        self._receive()
        assert self._status is not None
        return self._status

    def send_signal(self, number: int) -> None:
        """Send a signal to the worker."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def _receive(self, flags: int = 0) -> None:
        if self._status is not None:
            return
        answer = self._connection.recv(_MESSAGE_BYTES, flags)
        if self._status is None:  # else the handler of a signal has received it in the meantime
            # An empty answer: the worker was killed, and the nursery, which would have told how, is gone too.
            self._status = int(json.loads(answer)["status"]) if answer else -signal.SIGKILL


def hatch(arguments: list[str]) -> HatchedWorker | None:
    """Fork a worker with `arguments` for its `main`; None where there is no nursery that can do it."""
    address = os.environ.get(VARIABLE)
    if address is None:
        return None
    order = {"arguments": arguments, "folder": os.getcwd(), "environment": env_without_rank_vars()}
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe()
    try:
        with short_path(address) as path:
            connection.connect(path)
        # An environment of more than some 200 kB is too long for a message.
        socket.send_fds(connection, [json.dumps(order).encode()], [writing])
        answer = connection.recv(_MESSAGE_BYTES)
    except OSError:
        answer = b""
    finally:
        os.close(writing)
    pid = json.loads(answer).get("pid") if answer else None
    if pid is None:
        os.close(reading)
        connection.close()
        return None
    return HatchedWorker(connection, reading, pid)


def serve(listener: socket.socket) -> None:
    """Fork workers for whoever connects, until standard input ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it must outlive the workers that save themselves
    _preload()
    waking, woken = socket.socketpair()
    woken.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    workers: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        for source in (sys.stdin, listener, waking):
            selector.register(source, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if waking in ready:
                waking.recv(4096)
                _report_ended(workers)
            if listener in ready:
                _fork_worker(listener, workers)
            if sys.stdin in ready:
                signal.set_wakeup_fd(-1)  # a worker that ends from here on would be told to a closed socket
                return


def _preload() -> None:
    """Import what every worker needs; nothing is computed, so no thread exists when workers are forked."""
    import torch._dynamo  # noqa: F401  torch's optimizers import it when they are made: another 1.5 s

    import progdistill.jobs.evaluate
    import progdistill.jobs.train
    import progdistill.jobs.worker  # noqa: F401


def _fork_worker(listener: socket.socket, workers: dict[int, socket.socket]) -> None:
    connection, _ = listener.accept()
    data, descriptors, _, _ = socket.recv_fds(connection, _MESSAGE_BYTES, 1)
    if not data:
        connection.close()
        return
    pid = os.fork()
    if pid == 0:
        # Held here, they would have others wait for a nursery that is gone, for as long as this worker lives.
        for inherited in (listener, *workers.values()):
            inherited.close()
        status = _be_worker(json.loads(data), descriptors[0], connection)
        _tell(connection, status=status)
        os._exit(status)
    os.close(descriptors[0])
    workers[pid] = connection


def _be_worker(order: dict[str, Any], output: int, connection: socket.socket) -> int:
    """Become the worker that the order asks for; return its exit status."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    _tell(connection, pid=os.getpid())
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(order["environment"])
    try:
        os.chdir(order["folder"])
        from progdistill.jobs.worker import main

        status = main(*order["arguments"])
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _report_ended(workers: dict[int, socket.socket]) -> None:
    for pid in list(workers):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with workers.pop(pid) as connection:
                _tell(connection, status=os.waitstatus_to_exitcode(status))


def _tell(connection: socket.socket, **fact: int) -> None:
    """Say something to whoever asked for a worker, if anybody is there still."""
    with suppress(OSError):
        connection.send(json.dumps(fact).encode())


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
