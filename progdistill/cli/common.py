"""What several verbs share: the store option, checks of what was typed, the printing of facts."""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from progdistill.config.options import DEFAULT_STORE, resolve_options
from progdistill.errors import UsageError

if TYPE_CHECKING:
    from progdistill.errors import ProgdistillError
    from progdistill.store.base import Store


def add_store_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--store URI` (a local folder or s3://bucket/prefix)."""
    parser.add_argument(
        "--store",
        metavar="URI",
        help="local folder or s3://bucket/prefix"
        f" (default: $PROGDISTILL_STORE, `store` in progdistill.toml, or {DEFAULT_STORE})",
    )


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--json`: the same facts for a program."""
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")


def add_sampling_steps_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--sampling-steps N`, with its former name."""
    text = "sampling steps (default: the student's own)"
    parser.add_argument("--sampling-steps", "--steps", type=int, metavar="N", help=text)


def add_guidance_scale_argument(parser: argparse.ArgumentParser, text: str) -> None:
    """Add `--guidance-scale SCALE`."""
    text = f"{text} (default: the lowest that a guided student was trained with, none for other models)"
    parser.add_argument("--guidance-scale", type=float, metavar="SCALE", help=text)


def store_uri(args: argparse.Namespace) -> str | None:
    """The store that `--store`, the environment or `progdistill.toml` names; None where none of them does."""
    if args.store == "":
        raise UsageError("--store is empty: give a folder or s3://bucket/prefix, or leave the option out")
    return resolve_options({"store": args.store}).store


def store_of(args: argparse.Namespace, *, may_be_new: bool = False) -> "Store":
    """Open the store that was named, else the default one beside the work: no service is needed to begin.

    Raises UsageError where the one that was named is not there, unless it may be new.
    """
    from progdistill.store.open import open_store

    uri = store_uri(args)
    return open_store(uri or DEFAULT_STORE, must_exist=uri is not None and not may_be_new)


def check_output(option: str, path: Path, *, folder: bool = False) -> None:
    """Raise UsageError, before any work, unless a file (or folder) can be written at `path`.

    The folders on the way there are made: whether one can be is only known then.
    """
    with writing(option, path):
        if path.exists() and path.is_dir() != folder:
            raise UsageError(f"cannot write {option} {path}: it is {'a file' if folder else 'a folder'}")
        where = path if path.is_dir() else path.parent
        with suppress(FileExistsError):  # A file there is no folder to write in, as the next line says.
            where.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=where):
            pass


@contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """Turn what the operating system has against writing `path` into a UsageError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"cannot write {option} {path}: {reason}; choose another place") from error


def print_json(facts: Any) -> None:
    """Print facts as indented JSON to standard output."""
    print(json.dumps(facts, indent=2, sort_keys=True, default=str))


def status_of(unreadable: "Sequence[ProgdistillError]") -> int:
    """Say what of a listing could not be read, behind what could; the exit status of the whole."""
    for error in unreadable:
        print(f"error: {error}", file=sys.stderr)
    return max((error.exit_status for error in unreadable), default=0)
