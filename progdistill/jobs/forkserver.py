"""A process that has imported torch and forks the workers of a run on this machine: 2 s less per job."""

# multiprocessing's fork server serves only the process that started it; a flow's steps are processes of their own.

import json
import os
import select
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.context import ForkProcess
from subprocess import PIPE, Popen
from typing import NamedTuple, TextIO

from progdistill.signals import STOP_SIGNALS

VARIABLE = "PROGDISTILL_FORK_SERVER"  # with the path of the server's Unix socket
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
                command = [sys.executable, "-P", "-m", "progdistill.jobs.forkserver", str(listener.fileno())]
                server = Popen(command, stdin=PIPE, pass_fds=[listener.fileno()])
        except OSError:  # such as a path of more than 107 bytes: workers will be new processes
            yield
            return
        os.environ[VARIABLE] = path
        try:
            yield
        finally:
            del os.environ[VARIABLE]
            server.communicate()


class ForkedWorker(NamedTuple):
    """A forked worker, with the part of Popen's interface that a launcher uses."""

    connection: socket.socket
    stdout: TextIO
    pid: int

    def wait(self) -> int:
        with self.connection:
            return int(self.connection.recv(_MESSAGE_BYTES) or -signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


def fork_worker(argument: str, environment: dict[str, str]) -> ForkedWorker | None:
    """Fork a worker with this argument; return None where there is no fork server that can do it."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(os.environ[VARIABLE])
        connection.send(json.dumps([argument, os.getcwd(), environment]).encode())
        pid, (output,), _, _ = socket.recv_fds(connection, _MESSAGE_BYTES, 1)
    except (KeyError, OSError, ValueError):  # no server, or a dead one, or too long an environment for a message
        connection.close()
        return None
    return ForkedWorker(connection, os.fdopen(output, errors="replace"), int(pid))


def _fork_and_wait(listener: socket.socket, connection: socket.socket) -> None:
    listener.close()
    with suppress(OSError, ValueError):  # the client is gone
        order, pipe = json.loads(connection.recv(_MESSAGE_BYTES)), os.pipe()
        process = ForkProcess(target=_be_worker, args=(*pipe, *order))
        process.start()
        socket.send_fds(connection, [str(process.pid).encode()], pipe[:1])
        for fd in (1, 2, *pipe):  # nobody has to wait for this process to the end of their streams
            os.close(fd)
        process.join()
        connection.send(str(process.exitcode).encode())


def _be_worker(reading: int, writing: int, argument: str, folder: str, environment: dict[str, str]) -> None:
    os.close(reading)
    os.dup2(writing, 1)
    os.dup2(writing, 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    sys.exit(worker.main(argument))


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # it outlives workers that save a snapshot
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    import torch._dynamo  # noqa: F401  torch's optimizers import it when they are made: 1.5 s

    from progdistill.jobs import evaluate, train, worker  # noqa: F401

    listener = socket.socket(fileno=int(sys.argv[1]))
    while listener in select.select([sys.stdin, listener], [], [])[0]:
        with listener.accept()[0] as connection:
            ForkProcess(target=_fork_and_wait, args=(listener, connection)).start()
    os._exit(0)  # it waits for no worker
