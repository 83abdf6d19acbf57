"""Progressive distillation: plan and start runs, inspect checkpoints, sample, evaluate, report."""

import argparse
import sys

from progdistill.cli import checkpoints, data, doctor, evaluate, import_export, lineage, report, run, sample
from progdistill.cli.common import run_command
from progdistill.config.options import refuse_renamed
from progdistill.version import __version__

GROUPS = (run, data, checkpoints, lineage, sample, evaluate, import_export, report, doctor)


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; return its exit status: 0 done, 1 failed, 2 usage error, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="progdistill", description=__doc__)
    parser.add_argument("--version", action="version", version=f"progdistill {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="VERB")
    for group in GROUPS:
        group.add_parser(subparsers)
    return run_command(lambda: _run(parser, sys.argv[1:] if arguments is None else arguments))


def _run(parser: argparse.ArgumentParser, arguments: list[str]) -> int:
    refuse_renamed(arguments)
    args, unknown = parser.parse_known_args(arguments)
    if unknown and not getattr(args, "takes_unknown", False):
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    args.unknown = unknown
    status: int = args.run(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
