"""One round of the storm: a run loses a process, is resumed if it failed, and must end as an undisturbed one."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.end_to_end.running import command, environment, ids_of
from tests.storm.processes import VARIABLE, end_all, kinds_of, processes_of

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STEPS = ("train_base", "distill", "evaluate_fid")
OPTIONS = (
    *("--ladder", "2:1", "--base-updates", "8", "--updates-per-stage", "6", "--set", "model.network.base_channels=8"),
    *("--set", "snapshots.interval_updates=2", "--set", "evaluation.samples=20", "--set", "base.warmup_updates=2"),
)
PATIENCE_SECONDS = 900.0
"""For a run to end, and for its processes to be gone: far more than it takes on a busy machine."""


class Undisturbed(NamedTuple):
    """What a run gives that loses nothing, and how long its steps take, in seconds."""

    ids: list[str]
    seconds: dict[str, float]


class Failure(Exception):
    """What a run gave or left that it should not have."""


class Round(NamedTuple):
    """What is done to a run; all of it follows from a seed and the number of the round."""

    number: int
    world_size: int
    step: str
    signal: signal.Signals
    random: Random

    @staticmethod
    def numbered(number: int, seed: int) -> "Round":
        """The rounds go through all combinations of ranks, steps and signals; every third has two ranks."""
        step, sent = STEPS[number // 3 % 3], SIGNALS[number // 9 % 3]
        return Round(number, 2 if number % 3 == 0 else 1, step, sent, Random(f"{seed} {number}"))


class Place:
    """A folder of a run, with a temporary folder of its own, and with what `template` has in its store."""

    def __init__(self, folder: Path, world_size: int, template: Path | None = None) -> None:
        self.folder, self.mark = folder, folder.name
        self._options = (*OPTIONS, "--set", f"compute.world_size={world_size}")
        self._temporary = folder / "t"
        self._temporary.mkdir(parents=True)
        if template is not None:
            shutil.copytree(template, folder / ".progdistill")

    def start(self, *resume: str) -> "subprocess.Popen[bytes]":
        """Start or resume the run; its output is appended to a file."""
        extra = {VARIABLE: self.mark, "TMPDIR": str(self._temporary), "PROGDISTILL_LIVE_CARDS": "0"}
        with open(self.folder / "output", "ab") as output:
            return subprocess.Popen(
                command(*(resume or ("run", *self._options))),
                cwd=self.folder,
                env=environment(**extra),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        """What the run has printed so far."""
        return (self.folder / "output").read_text(errors="replace")

    def run_id(self) -> str | None:
        """The id of the run that was started last."""
        found = re.findall(r"\(run-id (\d+)\)", self.output())
        return found[-1] if found else None

    def has_reached(self, step: str) -> bool:
        """Whether a task of the step has begun."""
        return re.search(rf"/{step}/\d+ \(pid \d+\)\] Task is starting", self.output()) is not None

    def leftovers(self) -> list[str]:
        """What a finished run must not leave: temporary folders, sockets, locks that are held, snapshots."""
        # torch keeps a cache of its own in the temporary folder.
        found = [path.name for path in self._temporary.iterdir() if not path.name.startswith("torchinductor_")]
        for path in self.folder.rglob("*"):
            if path.is_socket() or path.is_fifo() or (path.suffix == ".lock" and _is_held(path)):
                found.append(str(path.relative_to(self.folder)))
        snapshots = self.folder / ".progdistill" / "store" / "snapshots"
        return found + [str(path.relative_to(self.folder)) for path in snapshots.rglob("*") if path.is_file()]


def _is_held(lock: Path) -> bool:
    with open(lock, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def wait_until(holds: Callable[[], object], what: str) -> None:
    """Wait for something that has to happen, on a busy machine too."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > until:
            raise Failure(f"after {PATIENCE_SECONDS:.0f} s {what}")
        time.sleep(0.02)


def undisturbed(place: Place) -> Undisturbed:
    """Run to the end."""
    driver = place.start()
    driver.wait()
    if driver.returncode != 0:
        raise Failure(f"a run that loses nothing fails:\n{place.output()[-3000:]}")
    times: dict[str, list[datetime]] = {}
    for at, step in re.findall(r"^(\S+ \S+) \[\d+/(\w+)/\d+ \(pid \d+\)\] Task", place.output(), re.MULTILINE):
        times.setdefault(step, []).append(datetime.fromisoformat(at))
    seconds = {step: (max(times[step]) - min(times[step])).total_seconds() for step in STEPS}
    return Undisturbed(ids_of(place.folder), seconds)


def disturb(round: Round, place: Place, expected: Undisturbed) -> str:
    """Do a round; return what was hit, and how the run ended that was hit. Failure where a rule does not hold."""
    driver = place.start()
    try:
        wait_until(lambda: place.has_reached(round.step) or driver.poll() is not None, f"{round.step} has not begun")
        time.sleep(round.random.uniform(0, expected.seconds[round.step]))
        hit = _hit(round, place)
        wait_until(lambda: driver.poll() is not None, "the run has not ended")
        wait_until(lambda: not processes_of(place.mark), "the run's processes have not ended")
        ended = f"exit status {driver.returncode}"
        if driver.returncode != 0:
            run_id = place.run_id()
            again = place.start(*(() if run_id is None else ("resume", "--origin-run-id", run_id)))
            wait_until(lambda: again.poll() is not None, "the resumed run has not ended")
            wait_until(lambda: not processes_of(place.mark), "the resumed run's processes have not ended")
            if again.returncode != 0:
                raise Failure(f"resuming fails with exit status {again.returncode}")
            ended += ", resumed"
        if (found := ids_of(place.folder)) != expected.ids:
            raise Failure(f"the ids are {found}, not {expected.ids}")
        if left := place.leftovers():
            raise Failure(f"it leaves {', '.join(left)}")
        return f"{hit}: {ended}"
    finally:
        end_all(place.mark)


def _hit(round: Round, place: Place) -> str:
    """Send the signal to a process of a kind that is there, or to all as a terminal does; return which."""
    kinds = kinds_of(processes_of(place.mark))
    names = sorted(kinds)
    if round.signal is signal.SIGINT:
        names.append("all")
    if not kinds:
        return "nothing"
    kind = round.random.choice(names)
    chosen = [process for found in kinds.values() for process in found]
    if kind != "all":
        chosen = [round.random.choice(sorted(kinds[kind]))]
    for process in chosen:
        with suppress(ProcessLookupError):
            os.kill(process.pid, round.signal)
    return kind
