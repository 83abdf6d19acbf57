"""A process that has imported torch and forks the workers of a run on this machine: 2 s less per job.

multiprocessing's fork server serves only the process that started it; a flow's steps are processes of their
own. Where there is no fork server, workers are new processes.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

VARIABLE = "PROGDISTILL_FORK_SERVER"
"""Environment variable with the path of the fork server's Unix socket."""

_MESSAGE_BYTES = 1 << 20


@contextmanager
def fork_server() -> Iterator[None]:
    """Run a fork server beside the body; it ends with this process, however that ends."""
    with tempfile.TemporaryDirectory(prefix="progdistill-") as folder:
        path = os.path.join(folder, "fork_server")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
                listener.bind(path)
                listener.listen()  # from here on clients wait until the server is ready
                command = [sys.executable, "-m", "progdistill.jobs.forkserver", str(listener.fileno())]
                server = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])
        except OSError:  # such as a path of more than 107 bytes
            yield
            return
        os.environ[VARIABLE] = path
        try:
            yield
        finally:
            del os.environ[VARIABLE]
            server.communicate()


class ForkedWorker:
    """A forked worker, with the part of Popen's interface that a launcher uses."""

    def __init__(self, connection: socket.socket, output: int, pid: int) -> None:
        self._connection, self.pid = connection, pid
        self.stdout = os.fdopen(output, errors="replace")

    def wait(self) -> int:
        """Wait for the exit status, negative for a signal."""
        with self._connection:
            return int(self._connection.recv(_MESSAGE_BYTES) or -signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """Send a signal to the worker."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


def fork_worker(argument: str, environment: dict[str, str]) -> ForkedWorker | None:
    """Fork a worker with this argument; return None where there is no fork server that can do it."""
    path, pid = os.environ.get(VARIABLE), b""
    if path is None:
        return None
    order = json.dumps([argument, os.getcwd(), environment])
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe()
    with suppress(OSError):  # the server is gone, or the environment is too long for a message
        connection.connect(path)
        socket.send_fds(connection, [order.encode()], [writing])
        pid = connection.recv(_MESSAGE_BYTES)
    os.close(writing)
    if pid:
        return ForkedWorker(connection, reading, int(pid))
    os.close(reading)
    connection.close()
    return None


def serve(listener: socket.socket) -> None:
    """Fork a worker, and a process that waits for it, per connection, until standard input ends."""
    import torch._dynamo  # noqa: F401  torch's optimizers import it when they are made: 1.5 s

    import progdistill.jobs.evaluate
    import progdistill.jobs.train
    import progdistill.jobs.worker  # noqa: F401

    while listener in select.select([sys.stdin, listener], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            with suppress(OSError):  # the client is gone
                _fork_and_wait(connection)
            os._exit(0)
        connection.close()


def _fork_and_wait(connection: socket.socket) -> None:
    data, descriptors, _, _ = socket.recv_fds(connection, _MESSAGE_BYTES, 1)
    if not data:
        return
    pid = os.fork()
    for stream in (1, 2):
        os.dup2(descriptors[0] if pid == 0 else os.open(os.devnull, os.O_WRONLY), stream)
    os.close(descriptors[0])
    if pid == 0:
        connection.close()
        os._exit(_be_worker(*json.loads(data)))
    connection.send(str(pid).encode())
    connection.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


def _be_worker(argument: str, folder: str, environment: dict[str, str]) -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    status = 1
    try:
        os.chdir(folder)
        from progdistill.jobs.worker import main

        status = main(argument)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)  # it outlives workers that save a snapshot, and waits for none
    serve(socket.socket(fileno=int(sys.argv[1])))
