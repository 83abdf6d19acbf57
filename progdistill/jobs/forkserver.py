"""A process that has imported torch and forks workers and ranks: 2 s less per start, more where ranks share a core."""

# multiprocessing's fork server serves only the process that started it; a flow's steps are processes of their own.

import ctypes
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
from subprocess import PIPE, Popen, TimeoutExpired

from progdistill.errors import ProgdistillError
from progdistill.signals import STOP_SIGNALS
from progdistill.store.open import open_store

VARIABLE = "PROGDISTILL_FORK_SERVER"  # with the path of the server's Unix socket
_MESSAGE_BYTES = 1 << 20
_PR_SET_PDEATHSIG = 1


@contextmanager
def fork_server(store: str = "") -> Iterator[None]:
    """Run a fork server beside the body, unless there is one already; it ends with this process, however that ends.

    It also imports what the store of this URI needs.
    """
    if VARIABLE in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="progdistill-") as folder:
        path = os.path.join(folder, "fork_server")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
                listener.bind(path)
                listener.listen()  # from here on clients wait until the server is ready
                module = "progdistill.jobs.forkserver"
                command = [sys.executable, "-P", "-m", module, str(listener.fileno()), store]
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


class ForkedWorker:
    """A forked worker, with the part of Popen's interface that launchers use.

    Attributes:
        pid: Its process.
        returncode: Its exit status, or -n if signal n ended it; None until `poll` or `wait` has seen it end.
    """

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid, self._connection = pid, connection
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return `returncode` at once."""
        with suppress(TimeoutExpired):
            self.wait(timeout=0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return `returncode`, or raise TimeoutExpired after so many seconds."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                status = self._connection.recv(_MESSAGE_BYTES)
            except (TimeoutError, BlockingIOError):
                raise TimeoutExpired(f"process {self.pid}", timeout or 0) from None
            self.returncode = int(status or -signal.SIGKILL)
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal; one that has ended ignores it."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


def fork_worker(argument: str, environment: dict[str, str], output: int, group: bool = False) -> ForkedWorker | None:
    """Fork a worker; return None where there is no fork server that can do it.

    Args:
        argument: The path of its request.
        environment: All of its environment.
        output: The file descriptor of its standard output and standard error.
        group: Whether it leads a process group of its own, so that signals of a terminal do not reach it.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(os.environ[VARIABLE])
        order = json.dumps([argument, os.getcwd(), environment, group]).encode()
        socket.send_fds(connection, [order], [output])
        pid = int(connection.recv(_MESSAGE_BYTES))
    except (KeyError, OSError, ValueError):  # no server, or a dead one, or too long an environment for a message
        connection.close()
        return None
    return ForkedWorker(pid, connection)


def _fork_and_wait(listener: socket.socket, connection: socket.socket) -> None:
    listener.close()
    with suppress(OSError, ValueError):  # the client is gone
        order, (output,), _, _ = socket.recv_fds(connection, _MESSAGE_BYTES, 1)
        *how, group = json.loads(order)
        process = ForkProcess(target=_be_worker, args=(output, *how))
        process.start()
        assert process.pid is not None
        if group:
            os.setpgid(process.pid, process.pid)
        connection.send(str(process.pid).encode())
        for fd in (1, 2, output):  # nobody has to wait for this process to the end of their streams
            os.close(fd)
        process.join()
        connection.send(str(process.exitcode).encode())


def _be_worker(output: int, argument: str, folder: str, environment: dict[str, str]) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # what waits for it has ended, which counts as its end
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    from progdistill.jobs.worker import main

    sys.exit(main(argument))


def import_worker(store: str = "") -> None:
    """Import what workers use. No import may call CUDA, which does not work in a process forked afterwards."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported, as in kubernetes/pod.py
    import torch._dynamo  # noqa: F401  torch's optimizers import it when they are made: 1.5 s

    from progdistill.jobs import evaluate, train, worker  # noqa: F401

    if store:
        with suppress(ProgdistillError):  # workers will say so
            open_store(store)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # it outlives workers that save a snapshot
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    import_worker(sys.argv[2])
    listener = socket.socket(fileno=int(sys.argv[1]))
    while listener in select.select([sys.stdin, listener], [], [])[0]:
        with listener.accept()[0] as connection:
            ForkProcess(target=_fork_and_wait, args=(listener, connection)).start()
    os._exit(0)  # it waits for no worker
