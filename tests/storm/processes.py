"""The processes of a run, found by a variable of their environment, and what each of them is."""

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

VARIABLE = "PROGDISTILL_STORM"
"""Environment variable that marks the processes of one round."""


class Process(NamedTuple):
    """A living process."""

    pid: int
    parent: int
    command: str
    name: str


def processes_of(mark: str) -> list[Process]:
    """The living processes of a round, whoever their parents are."""
    return [process for path in Path("/proc").glob("[0-9]*") if (process := _read(path, mark)) is not None]


def _read(path: Path, mark: str) -> Process | None:
    try:
        if f"{VARIABLE}={mark}\0".encode() not in (path / "environ").read_bytes():
            return None
        state, parent = (path / "stat").read_text().rpartition(")")[2].split()[:2]
        command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        name = (path / "comm").read_text().strip()
    except OSError:  # it has ended
        return None
    return None if state in "ZX" else Process(int(path.name), int(parent), command, name)


def kinds_of(processes: list[Process]) -> dict[str, list[Process]]:
    """The processes by what they are."""
    by_pid, kinds = {process.pid: process for process in processes}, dict[str, list[Process]]()
    for process in processes:
        kinds.setdefault(_kind_of(process, by_pid), []).append(process)
    return kinds


def _kind_of(process: Process, by_pid: dict[int, Process]) -> str:
    if process.name.startswith("rank "):
        return "rank"
    if "jobs.forkserver" in process.command:
        depth = 0  # the server forks a process for each order, which forks the worker
        while (parent := by_pid.get(process.parent)) is not None and parent.command == process.command:
            process, depth = parent, depth + 1
        return ("fork server", "fork server's child", "worker")[min(depth, 2)]
    for word, kind in (
        ("jobs.agent", "agent"),
        ("jobs.worker", "worker"),
        (" step ", "task"),
        ("distill_flow", "driver"),
    ):
        if word in process.command:
            return kind
    return "other"


def end_all(mark: str) -> None:
    """Kill what is left of a round."""
    for process in processes_of(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, 9)
