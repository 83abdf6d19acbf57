"""Starts a flow, as a command or as a script: all is checked before Metaflow starts anything."""

import argparse
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from progdistill.cli.common import did_you_mean, run_command, writing
from progdistill.config.options import RunOption, add_run_options, as_arguments, check_arguments, parse_known_options
from progdistill.errors import Interrupted, ProgdistillError, UsageError
from progdistill.escape import printable
from progdistill.logs import configure_logging
from progdistill.signals import restore_default_signals

VERBS = ("run", "resume")
"""Commands of Metaflow that are checked before it starts."""

METAFLOW_OPTIONS = ("max-workers", "namespace", "origin-run-id", "run-id-file", "tag", "with")
"""Of those commands, the ones that people type."""


_FORWARD_SECONDS = 0.5  # for a signal to the whole process group to arrive before it is forwarded


class Program(NamedTuple):
    """A flow as commands start it."""

    flow: Any
    """Its class."""
    options: tuple[RunOption, ...]
    prepare: Callable[[Mapping[str, Any]], BaseModel]
    """Checks typed options before Metaflow starts anything; `start` takes over the result as JSON."""
    entrypoint: Sequence[str] | None
    """How its tasks start; None: as the script of this process."""
    resume: str
    """The command that resumes a run, up to the run's id."""

    def add_arguments(self, parser: argparse.ArgumentParser, verb: str) -> None:
        """Add the arguments of `run` or `resume`."""
        if verb == "run":
            add_run_options(parser, self.options)
        else:
            add_origin(parser)


def add_origin(parser: argparse.ArgumentParser) -> None:
    """Add the argument of `resume`."""
    text = "run to resume, or SweepFlow/RUN (default: the last run of this folder)"
    parser.add_argument("--origin-run-id", metavar="RUN", help=text)


def run_script(program: Program) -> None:
    """Run a program with the arguments of the process, and exit: a task, or any command of Metaflow."""
    arguments = sys.argv[1:]
    if "step" in arguments:  # a task, not a command of the user
        restore_default_signals()
        configure_logging()
        sys.exit(_metaflow(program, arguments))
    verb = next((word for word in arguments if word in VERBS), None)

    def run() -> int:
        check_arguments(arguments)
        if verb is None or "--help" in arguments:
            return _metaflow(program, arguments)
        position = arguments.index(verb)
        before, after = arguments[:position], arguments[position + 1 :]
        typed, rest = parse_known_options(lambda parser: program.add_arguments(parser, verb), after)
        return start(program, before, verb, typed, rest)

    sys.exit(run_command(run))


def start(program: Program, before: Sequence[str], verb: str, typed: Mapping[str, Any], rest: Sequence[str]) -> int:
    """Check everything before Metaflow starts anything, then run or resume; return the exit status.

    `before` and `rest` are Metaflow's options, `typed` ours.
    """
    from progdistill.run.temporary import temporary_folder

    if meant := did_you_mean(rest, [*(option.name for option in program.options), *METAFLOW_OPTIONS]):
        raise UsageError(f"no such option: {meant}")
    if program.entrypoint is not None and "--pylint" not in before:  # an installed flow, whose author has checked it
        before = ["--no-pylint", *before]
    with temporary_folder() as folder:
        if verb == "run":
            _hand_over(program, typed, folder / "prepared.json")
            arguments = [*before, verb, *as_arguments(typed, program.options), *rest]
        else:
            origin, flow = typed["origin_run_id"], program.flow.__name__
            _check_origin(flow, origin, before)
            named = () if origin is None else ("--origin-run-id", origin)
            tags = [argument for tag in _tags_of(flow, origin) for argument in ("--tag", tag)]
            arguments = [*before, verb, *rest, *named, *tags]
        from progdistill.flow import USAGE_ERROR

        os.environ[USAGE_ERROR] = str(Path(folder) / "usage_error")
        return _supervise(program, arguments)


def _hand_over(program: Program, typed: Mapping[str, Any], path: Path) -> None:
    """Prepare the run, once, and leave it for the step `start` to read."""
    from progdistill.flow import PREPARED_RUN

    with writing("results in", Path.cwd()), tempfile.TemporaryFile(dir="."):
        pass
    for option in program.options:
        variable = f"METAFLOW_RUN_{option.field.upper()}"
        if os.environ.get(variable):  # Metaflow would take it into account, the prepared run would not
            raise UsageError(f"{variable} is set: unset it, and give --{option.name} instead")
    path.write_text(program.prepare(typed).model_dump_json())
    os.environ[PREPARED_RUN] = str(path)


def _check_origin(flow: str, origin: str | None, before: Sequence[str]) -> None:
    """Refuse to resume a run that is not in this folder; Metaflow would end in a traceback."""
    from metaflow.metaflow_config import DEFAULT_DATASTORE

    if origin is None or "--datastore" in before or DEFAULT_DATASTORE != "local":
        return
    folder = Path(os.environ["METAFLOW_DATASTORE_SYSROOT_LOCAL"], ".metaflow", flow)
    known = sorted(found.name for found in folder.glob("[0-9]*"))
    if origin not in known:
        there_is = f"there are {', '.join(known)}" if known else "there is none: resume where it ran"
        raise UsageError(f"no run {origin!r} in {folder.parents[1].absolute()}; {there_is}")


def _tags_of(flow: str, run_id: str | None) -> list[str]:
    """The tags of the run to resume, by default the last one of this folder: `start`, which adds them, is cloned."""
    from metaflow import Run
    from metaflow.exception import MetaflowException
    from metaflow.util import get_latest_run_id

    run_id = run_id or get_latest_run_id(lambda *_, **__: None, flow)
    try:
        return [] if run_id is None else sorted(Run(f"{flow}/{run_id}", _namespace_check=False).user_tags)
    except MetaflowException:  # Metaflow itself will say what is wrong with the run
        return []


def _supervise(program: Program, arguments: Sequence[str]) -> int:
    """Run Metaflow; when it fails, print how to resume."""
    from metaflow import current

    from progdistill.flow import USAGE_ERROR
    from progdistill.jobs.forkserver import fork_server
    from progdistill.signals import StopSignals, raise_interrupt

    def stop(number: int) -> None:
        forward = threading.Timer(_FORWARD_SECONDS, _forward_to_tasks, [number])
        forward.daemon = True
        forward.start()
        raise_interrupt(number)

    # Metaflow ends on SIGINT, and here on SIGTERM, with status 1; it waits 5 s for its tasks and kills them.
    with StopSignals(stop) as signals:
        try:
            with fork_server():
                status = _metaflow(program, arguments)
        except (KeyboardInterrupt, SystemExit) as leaving:
            code = getattr(leaving, "code", 1)
            status = code if isinstance(code, int) else int(code is not None)
        if signals.received:
            signals.ignore()
            status = Interrupted.exit_status
            _ask_about_jobs_left(str(current.run_id))
        if status == 1 and Path(os.environ[USAGE_ERROR]).exists():
            status = UsageError.exit_status
        if status != 0 and current.run_id:
            # Not Metaflow's `latest_run`: all runs of a folder share it, and `resume` does not write it.
            print(f"To resume: {program.resume}{current.run_id}", file=sys.stderr)
        return status


def _forward_to_tasks(number: int) -> None:
    """Send a signal to Metaflow's tasks: a terminal sent it to all processes, but `kill` or a supervisor only here.

    Tasks that have it already take it as the same.
    """
    for path in Path("/proc/self/task").glob("*/children"):
        for pid in path.read_text().split():
            with suppress(OSError):
                if b"\0step\0" in Path("/proc", pid, "cmdline").read_bytes():
                    os.kill(int(pid), number)


def _metaflow(program: Program, arguments: Sequence[str]) -> int:
    from metaflow.parameters import flow_context

    with flow_context(program.flow):
        from metaflow import cli  # on import it declares the options of the flow in context

        flow = program.flow(use_cli=False)
        return cli.main(flow, args=list(arguments), entrypoint=program.entrypoint) or 0


def _ask_about_jobs_left(run_id: str) -> None:
    """Ask what becomes of cluster jobs that outlive the run: its steps have no terminal, this process may."""
    from progdistill.run.prepare import runs_folder

    left = {
        found.parent for name in (run_id, f"{run_id}.*") for found in runs_folder().glob(f"{name}/jobs/*.left.json")
    }
    for jobs in sorted(left):
        from progdistill.jobs.kubernetes.launcher import ask_about_left

        try:
            ask_about_left(jobs)
        except ProgdistillError as error:
            print(printable(f"error: {error}"), file=sys.stderr)
