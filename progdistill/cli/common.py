"""Helpers of all commands: exit statuses, shared options, checks of arguments and outputs, JSON."""

import argparse
import json
import os
import signal
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from progdistill.config.options import DEFAULT_STORE, resolve_options
from progdistill.errors import Interrupted, ProgdistillError, UsageError
from progdistill.escape import one_line, printable
from progdistill.logs import configure_logging
from progdistill.signals import STOP_SIGNALS, StopSignals, record
from progdistill.store.files import usage_error_of

if TYPE_CHECKING:
    from progdistill.store.base import Store

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def did_you_mean(arguments: Iterable[str], names: Iterable[str]) -> str:
    """Of arguments that no option has taken: a question about the first that comes near one of `names`; or nothing."""
    known = [name.replace("_", "-") for name in names]
    for argument in arguments:
        name = argument.partition("=")[0]
        if name.startswith("--") and name[2:] not in known and (near := get_close_matches(name[2:], known, 1, 0.75)):
            return f"{name}: did you mean --{near[0]}?"
    return ""


def run_command(command: Callable[[], int]) -> int:
    """Run a command; return its exit status: 0 done, 1 failed, 2 usage error, 130 interrupted.

    SIGINT and SIGTERM raise KeyboardInterrupt in the command, so that partial files are removed.
    """
    configure_logging()
    # A shell makes background commands ignore Ctrl-C; they keep ignoring it.
    handled = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    with StopSignals(signals=handled) as signals:
        try:
            status = _with_errors_printed(command)
            signals.action = record
        except KeyboardInterrupt:
            signals.ignore()
            print("interrupted", file=sys.stderr)
            status = Interrupted.exit_status
    return status


def _with_errors_printed(command: Callable[[], int]) -> int:
    try:
        status = command()
        sys.stdout.flush()
        return status
    except ProgdistillError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        # The reader of the output has closed it, as `| head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(printable(f"error: {usage_error_of(error) or error}"), file=sys.stderr)
        return UsageError.exit_status if usage_error_of(error) else ProgdistillError.exit_status


def add_verb(
    verbs: Verbs,
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    *,
    store: bool = True,
    examples: str = "",
) -> argparse.ArgumentParser:
    """Add a verb that `run` executes, with `--json` and, unless it needs none, `--store`; help ends with examples."""
    parser = verbs.add_parser(name, **described(text, examples))
    parser.set_defaults(run=run)
    if store:
        places = f"$PROGDISTILL_STORE, `store` in progdistill.toml, or {DEFAULT_STORE}"
        help_text = f"local folder, s3://bucket/prefix or gs://bucket/prefix (default: {places})"
        parser.add_argument("--store", metavar="URI", help=help_text)
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")
    return parser


def described(text: str, examples: str = "") -> dict[str, Any]:
    """The arguments of `add_parser` for a verb's help: what it does, and command lines to start from."""
    epilog = textwrap.dedent(examples).strip()
    return {
        "help": text,
        "description": f"{text[0].upper()}{text[1:]}.",
        "epilog": f"examples:\n{textwrap.indent(epilog, '  ')}" if epilog else None,
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def add_reference_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument REF, which names a checkpoint."""
    parser.add_argument("reference", metavar="REF", help="id or prefix, alias, or Flow/run/steps")


def add_sampling_steps_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--sampling-steps N`, with its former name."""
    text = "sampling steps (default: the student's own)"
    parser.add_argument("--sampling-steps", "--steps", type=int, metavar="N", help=text)


def add_guidance_scale_argument(parser: argparse.ArgumentParser, text: str = "guidance scale, 1 or more") -> None:
    """Add `--guidance-scale SCALE`."""
    text = f"{text} (default: the lowest that a guided student was trained with, none for other models)"
    parser.add_argument("--guidance-scale", type=float, metavar="SCALE", help=text)


def store_uri(args: argparse.Namespace) -> str | None:
    """The store that `--store`, the environment or `progdistill.toml` names; None where none of them does."""
    if args.store == "":
        raise UsageError("--store is empty: give a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, or leave it out")
    return resolve_options({"store": args.store}).store


def store_of(args: argparse.Namespace, *, may_be_new: bool = False) -> "Store":
    """Open the named store, or the default store of this folder.

    Raises UsageError where a named store does not exist, unless it may be new.
    """
    from progdistill.store.open import open_store

    uri = store_uri(args)
    return open_store(uri or DEFAULT_STORE, must_exist=uri is not None and not may_be_new)


def check_output(option: str, path: Path, *, folder: bool = False) -> None:
    """Raise UsageError, before any work, unless a file (or folder) can be written at `path`.

    Parent folders are created: only then is it known whether they can be.
    """
    with writing(option, path):
        if path.exists() and path.is_dir() != folder:
            raise UsageError(f"cannot write {option} {path}: it is {'a file' if folder else 'a folder'}")
        where = path if path.is_dir() else path.parent
        with suppress(FileExistsError):  # the next line refuses a file in its place
            where.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=where):
            pass


@contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """Raise an OSError of writing `path` as a UsageError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"cannot write {option} {path}: {reason}; choose another place") from error


def print_json(facts: Any) -> None:
    """Print facts as indented JSON to standard output."""
    print(json.dumps(facts, indent=2, sort_keys=True, default=str))


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells, in columns as wide as their widest cell."""
    shown = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def status_of(unreadable: Sequence[ProgdistillError]) -> int:
    """Print what a listing could not read, after the rest; return the exit status of the whole."""
    for error in unreadable:
        print(printable(f"error: {error}"), file=sys.stderr)
    return max((error.exit_status for error in unreadable), default=0)
