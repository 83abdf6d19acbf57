"""`progdistill`: plan runs, look at checkpoints and lineage, draw samples, evaluate, report."""

import argparse
import os
import signal
import sys

from progdistill.cli import (
    checkpoints,
    compare,
    data,
    doctor,
    evaluate,
    lineage,
    model_export,
    model_import,
    plan,
    report,
    sample,
)
from progdistill.errors import ProgdistillError
from progdistill.signals import SIGNALS, interruptible
from progdistill.version import __version__

VERBS = (
    plan,
    data,
    checkpoints,
    lineage,
    sample,
    evaluate,
    model_export,
    model_import,
    report,
    compare,
    doctor,
)


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; return its exit status: 0 done, 1 failed, 2 usage error, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="progdistill",
        description=__doc__,
        epilog="Training runs are started with: python flows/distill_flow.py run --help",
    )
    parser.add_argument("--version", action="version", version=f"progdistill {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="VERB")
    for verb in VERBS:
        verb.add_parser(subparsers)
    args = parser.parse_args(arguments)
    # What a shell runs in the background ignores Ctrl-C, and goes on doing so.
    heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    try:
        with interruptible(heeded):  # so that half-written files go
            status: int = args.run(args)
            sys.stdout.flush()
    except ProgdistillError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        # Whoever read the output has seen enough, as `| head` does; nothing more can be said to them.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
