"""What several verbs share: the store option and the printing of facts."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from progdistill.artifacts.store import Store
    from progdistill.errors import ProgdistillError

DEFAULT_STORE = ".progdistill/store"


def default_store() -> str:
    """The store of `PROGDISTILL_STORE`, else a folder beside the work: no service is needed to begin."""
    return os.environ.get("PROGDISTILL_STORE", DEFAULT_STORE)


def default_data_root() -> Path:
    """The folder of prepared datasets: `PROGDISTILL_DATA`, else `.progdistill/data`."""
    return Path(os.environ.get("PROGDISTILL_DATA", ".progdistill/data"))


def add_store_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--store URI` (a local folder or s3://bucket/prefix)."""
    parser.add_argument(
        "--store",
        default=default_store(),
        metavar="URI",
        help="local folder or s3://bucket/prefix (default: $PROGDISTILL_STORE or %(default)s)",
    )


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--json`: the same facts for a program."""
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")


def store_of(args: argparse.Namespace) -> "Store":
    """Open the store that `--store` names."""
    from progdistill.artifacts.store import open_store

    return open_store(args.store)


def print_json(facts: Any) -> None:
    """Print facts as indented JSON to standard output."""
    print(json.dumps(facts, indent=2, sort_keys=True, default=str))


def status_of(unreadable: "Sequence[ProgdistillError]") -> int:
    """Say what of a listing could not be read, behind what could; the exit status of the whole."""
    for error in unreadable:
        print(f"error: {error}", file=sys.stderr)
    return max((error.exit_status for error in unreadable), default=0)
