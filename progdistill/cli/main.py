"""Progressive distillation: plan and start runs, inspect checkpoints, sample, evaluate, report."""

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
    run,
    sample,
)
from progdistill.config.options import refuse_renamed
from progdistill.errors import Interrupted, ProgdistillError
from progdistill.logs import configure_logging
from progdistill.signals import STOP_SIGNALS, StopSignals, record
from progdistill.version import __version__

VERBS = (
    run,
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
    configure_logging()
    parser = argparse.ArgumentParser(prog="progdistill", description=__doc__)
    parser.add_argument("--version", action="version", version=f"progdistill {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="VERB")
    for verb in VERBS:
        verb.add_parser(subparsers)
    # A shell makes background commands ignore Ctrl-C; they keep ignoring it.
    handled = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    with StopSignals(signals=handled) as signals:  # as exceptions, so that half-written files are removed
        try:
            status = _run(parser, sys.argv[1:] if arguments is None else arguments)
            signals.action = record
        except KeyboardInterrupt:
            signals.ignore()
            print("interrupted", file=sys.stderr)
            status = Interrupted.exit_status
    return status


def _run(parser: argparse.ArgumentParser, arguments: list[str]) -> int:
    try:
        refuse_renamed(arguments)
        args, unknown = parser.parse_known_args(arguments)
        if unknown and not getattr(args, "takes_unknown", False):
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        args.unknown = unknown
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except ProgdistillError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        # The reader of the output has closed it, as `| head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
