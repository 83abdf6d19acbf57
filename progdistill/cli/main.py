"""Progressive distillation: plan and start runs, inspect checkpoints, sample, evaluate, report."""

import argparse
import sys
from difflib import get_close_matches
from typing import Any

from progdistill.cli import (
    checkpoints,
    completion,
    data,
    doctor,
    evaluate,
    import_export,
    lineage,
    report,
    run,
    sample,
    sweep,
    watch,
)
from progdistill.cli.common import did_you_mean, run_command
from progdistill.config.options import check_arguments
from progdistill.version import __version__

GROUPS = (run, sweep, watch, data, checkpoints, lineage, sample, evaluate, import_export, report, doctor)

EXAMPLES = """examples:
  progdistill run                                           distill the built-in digits
  progdistill watch                                         see how far it is, from another terminal
  progdistill sample DistillFlow/RUN/4 --out grid.png       draw from the 4-step student of a run
  progdistill run --from DistillFlow/RUN/8                  branch from the 8-step student

`progdistill VERB --help` explains a verb.
Exit statuses: 0 done, 1 failed, 2 an error that you can correct, 130 interrupted."""


class _Parser(argparse.ArgumentParser):
    """Answers a mistyped verb or choice with the one that was meant. Python 3.14's `suggest_on_error` will do so."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        known = [str(choice) for choice in action.choices or ()]
        if known and value not in known and (near := get_close_matches(str(value), known, n=1)):
            raise argparse.ArgumentError(action, f"there is no {value!r}; did you mean {near[0]}?")
        super()._check_value(action, value)


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; return its exit status: 0 done, 1 failed, 2 usage error, 130 interrupted."""
    parser = make_parser()
    return run_command(lambda: _run(parser, sys.argv[1:] if arguments is None else arguments))


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser: argparse.ArgumentParser = _Parser(
        prog="progdistill", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"progdistill {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="VERB", title="verbs")
    for group in GROUPS:
        group.add_parser(subparsers)
    completion.add_parser(subparsers, parser)
    return parser


def _run(parser: argparse.ArgumentParser, arguments: list[str]) -> int:
    check_arguments(arguments)
    args, unknown = parser.parse_known_args(arguments)
    if unknown and not getattr(args, "takes_unknown", False):
        meant = did_you_mean(unknown, vars(args))
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{meant and f' ({meant})'}")
    args.unknown = unknown
    status: int = args.run(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
