"""The ranks of one host: `python -m progdistill.jobs.ranks RANKS REQUEST` runs as many workers beside it.

torchrun would do it too, but reports 1 for every exit status, restarts where nobody asked, and takes 7 s.
Exit status: 2 if a rank reported a usage error, else the first failure that was a rank's own (128 + n for
signal n), else 130 if they were stopped, else 75 if all that failed had lost another host's rank.
"""

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Final, NamedTuple

from progdistill.errors import Interrupted, PeerLostError, UsageError

SETTLE_SECONDS: Final = 20.0
"""How long the others may take to notice that a rank failed, before they are ended."""

RANK_VARIABLES: Final = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "PROGDISTILL_JOB_UID"),
)
"""What tells a process that it is one of several: torchrun's, and the name of our pods' gang."""


def env_without_rank_vars() -> dict[str, str]:
    """This process's environment without what makes it one of several ranks: a job's ranks are its own."""
    return {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}


class LocalRanks(NamedTuple):
    """Which of a job's ranks run on this host, and where rank 0 is to be met."""

    first: int
    here: int
    world_size: int
    address: str
    port: int

    def environment(self, local_rank: int) -> dict[str, str]:
        """What one rank's environment has beside this process's own; the names are torchrun's."""
        return {
            "RANK": str(self.first + local_rank),
            "LOCAL_RANK": str(local_rank),
            "WORLD_SIZE": str(self.world_size),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
            # Below errors, torch reports every connection that ends.
            "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
        }


def run_ranks(which: LocalRanks, arguments: Sequence[str]) -> int:
    """Run `python ARGUMENTS` once a rank until all have ended; return the exit status for all of them.

    Lines of ranks other than 0 begin with `[rank n]`. SIGINT and SIGTERM go on to every rank.
    """
    children = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, **which.environment(local_rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        for local_rank in range(which.here)
    ]
    stopping: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        stopping.append(number)
        _signal(children, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()
    threads = [
        threading.Thread(target=_follow, args=(child, which.first + index, index, ended))
        for index, child in enumerate(children)
    ]
    for thread in threads:
        thread.start()
    statuses = [_status_of_next(ended, children, which, stopping) for _ in children]
    for thread in threads:
        thread.join()
    return overall(statuses)


def overall(statuses: Sequence[int]) -> int:
    """The exit status of ranks that ended in this order."""
    own = [
        status for status in statuses if status not in (0, PeerLostError.exit_status, Interrupted.exit_status)
    ]
    if UsageError.exit_status in own:
        return UsageError.exit_status
    return next(iter(own), max(statuses))


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _follow(child: "subprocess.Popen[str]", rank: int, index: int, ended: "queue.SimpleQueue[int]") -> None:
    prefix = f"[rank {rank}] " if rank else ""
    assert child.stdout is not None
    for line in child.stdout:
        _say(f"{prefix}{line}")
    child.wait()
    ended.put(index)


def _status_of_next(
    ended: "queue.SimpleQueue[int]",
    children: "Sequence[subprocess.Popen[str]]",
    which: LocalRanks,
    stopping: Sequence[int],
) -> int:
    """Wait for the next rank to end; when it failed, give the others a while, then end them."""
    index = ended.get()
    status = children[index].wait()
    if -status in stopping:
        return Interrupted.exit_status  # it had not yet begun to listen
    if status not in (0, Interrupted.exit_status):
        timer = threading.Timer(SETTLE_SECONDS, _signal, (children, signal.SIGKILL))
        timer.daemon = True
        timer.start()
    if status < 0:
        _say(f"rank {which.first + index} was killed by {signal.Signals(-status).name}\n")
        return 128 - status
    return status


def _say(line: str) -> None:
    """Hand on a line; where nobody reads any more, the ranks must still be waited for."""
    with suppress(BrokenPipeError):
        sys.stdout.write(line)
        sys.stdout.flush()


def _signal(children: "Sequence[subprocess.Popen[str]]", number: int) -> None:
    for child in children:
        if child.poll() is None:
            child.send_signal(number)


def main(world_size: str, request: str) -> int:
    """Run all ranks of a job on this machine."""
    which = LocalRanks(0, int(world_size), int(world_size), "127.0.0.1", free_port())
    return run_ranks(which, ["-m", "progdistill.jobs.worker", request])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
