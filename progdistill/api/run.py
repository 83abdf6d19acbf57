"""Plan, start and follow runs of the flow; compare them.

    run = progdistill.distill(ladder="64:4", seed=1).wait()
    run.models()[4].sample(64, seed=0).save("grid.png")

Errors are as in `api.model`.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from pydantic import JsonValue

from progdistill.api.model import Model, load
from progdistill.config.options import RUN_OPTIONS, as_arguments, resolve_options
from progdistill.config.overrides import overrides_of
from progdistill.errors import Interrupted, ProgdistillError, UsageError
from progdistill.jobs.events import Event, read_events
from progdistill.notebook import html_table
from progdistill.report.build import read_input
from progdistill.report.comparison import Comparison, compare_runs
from progdistill.report.input import ReportInput, number
from progdistill.run.prepare import PreparedRun, prepare_run, runs_folder
from progdistill.run.report import report_folder
from progdistill.run.steps import EVENTS_FILE

LOG_FILE = "output.log"
_LOG_LINES = 20
_POLL_SECONDS = 0.2


class Run:
    """A run of the flow in the current folder: one that `distill` started, or any other by its id.

    Attributes:
        run_id: Metaflow's id of the run.
        folder: `runs/RUN`, with its report and, if it was started from Python, its log `output.log`.
    """

    def __init__(self, run_id: str = "latest", process: "subprocess.Popen[bytes] | None" = None) -> None:
        self.run_id, self.folder = run_id, runs_folder().absolute() / run_id
        self._process = process
        if process is None and not self.folder.is_dir():
            raise UsageError(f"no run {run_id!r} in {self.folder.parent}")

    def __repr__(self) -> str:
        return f"Run({self.run_id}, {self.state})"

    def _repr_html_(self) -> str:
        """The stages with their distances; before there is a report, the newest event of each job."""
        caption = f"Run {self.run_id}, {self.state}"
        if self.state == "done":
            head = ("sampling steps", "distance", "undistilled", "checkpoint")
            return html_table(
                [
                    (f"{stage.sampling_steps:,}", number(stage.distance), number(stage.baseline_ddim), stage.id[:12])
                    for stage in self.report().checkpoints
                ],
                head,
                caption,
            )
        newest = {event.label: event for event in read_events(self.folder / EVENTS_FILE)[0]}
        rows = [
            (label, f"{event.update:,}/{event.updates:,} updates, loss {event.loss:.4g}")
            if event.kind == "training"
            else (label, event.state)
            for label, event in newest.items()
        ]
        return html_table(rows or [("no event yet", "")], caption=caption)

    @property
    def state(self) -> Literal["running", "done", "failed", "interrupted", "unknown"]:
        """`unknown` for a run of another process that has no report yet."""
        status = None if self._process is None else self._process.poll()
        if self._process is not None and status is None:
            return "running"
        if status:
            return "interrupted" if status == Interrupted.exit_status else "failed"
        return "done" if (self.folder / "report").is_dir() else "unknown"

    def events(self) -> Iterator[Event]:
        """Yield the run's events from its start until it ends.

        A `jobs.events.TrainingEvent` has update, loss, images per second and remaining seconds; a `JobEvent`
        says that a job was found in the store, started, finished or failed.
        """
        position, ended = 0, False
        while not ended:
            ended = self.state != "running"
            found, position = read_events(self.folder / EVENTS_FILE, position)
            yield from found
            time.sleep(0 if ended else _POLL_SECONDS)

    def wait(self) -> "Run":
        """Wait until the run ends, and return it. RunFailedError, with the end of its log, if it failed."""
        if self._process is not None and self._process.wait() != 0:
            lines = (self.folder / LOG_FILE).read_text(errors="replace").splitlines()[-_LOG_LINES:]
            text = "\n".join(lines)
            raise RunFailedError(f"run {self.run_id} failed with status {self._process.returncode}:\n{text}")
        return self

    def stop(self) -> None:
        """Interrupt the run, which saves its state, and wait for it; `resume` continues it."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()

    def report(self) -> ReportInput:
        """The figures of the report: every stage with its distance, baselines, seconds and images."""
        return read_input(report_folder(self.run_id))

    def models(self, store: str | None = None) -> dict[int, Model]:
        """The run's models by their number of sampling steps, the most first."""
        report = self.report()
        return {stage.sampling_steps: load(stage.id, store or report.store) for stage in report.checkpoints}


class RunFailedError(ProgdistillError):
    """A run that was started from Python ended with an exit status other than 0."""


class Options(TypedDict, total=False):
    """The options of `progdistill run`, with underscores for dashes; `start_from` is `--from`."""

    dataset: str
    ladder: str
    target_steps: int
    start_from: str
    reproduce: str
    preset: str
    store: str
    launcher: str
    seed: int
    base_updates: int
    updates_per_stage: int
    guidance_scale: str
    track: str
    set: dict[str, JsonValue]
    """Settings by path, such as `{"distill.learning_rate": 5e-4}`."""


def plan(**options: Unpack[Options]) -> PreparedRun:
    """Check the options of a run and return what it would do; nothing is trained or written.

    `print(plan.describe())` shows it, `plan.facts()` has its numbers. UsageError if an option cannot be used.
    """
    return prepare_run(resolve_options(_by_field(options)))


def distill(**options: Unpack[Options]) -> Run:
    """Start a run of the flow in this folder, in a separate process, and return at once.

    UsageError if an option cannot be used; nothing was started then.
    """
    plan(**options)
    return _start("run", as_arguments(_by_field(options)))


def resume(run_id: str) -> Run:
    """Continue a run that failed or was interrupted, as `progdistill resume --origin-run-id RUN` does."""
    return _start("resume", ["--origin-run-id", run_id])


def compare(*runs: Run | str) -> Comparison:
    """Compare the distances, times and settings of two or more runs, given as runs or run ids.

    UsageError for fewer than two runs, an unknown run, or figures that do not compare.
    """
    return compare_runs([(run if isinstance(run, Run) else Run(run)).report() for run in runs])


def _by_field(options: Options) -> dict[str, Any]:
    known = {option.field for option in RUN_OPTIONS}
    if unknown := sorted(options.keys() - known):
        raise UsageError(f"unknown option {unknown[0]!r}; valid options: {', '.join(sorted(known))}")
    return {**options, "set": overrides_of(options.get("set", {}), "set")}


def _start(verb: str, arguments: Sequence[str]) -> Run:
    """Start the flow in a separate process; return as soon as it has a run id."""
    folder = runs_folder()
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        id_file, log = Path(temporary) / "run_id", folder / f".{os.getpid()}-{time.time_ns()}.log"
        command = [sys.executable, "-P", "-m", "progdistill.cli.main", verb, *arguments]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--run-id-file", str(id_file)], stdout=output, stderr=subprocess.STDOUT
            )
        while not (id_file.exists() and (run_id := id_file.read_text().strip())):
            if process.poll() is not None:
                text = log.read_text(errors="replace").strip()
                log.unlink()
                kind = UsageError if process.returncode == UsageError.exit_status else RunFailedError
                raise kind(text.removeprefix("error: "))
            time.sleep(_POLL_SECONDS)
    run = Run(run_id, process)
    run.folder.mkdir(exist_ok=True)
    log.replace(run.folder / LOG_FILE)
    return run
