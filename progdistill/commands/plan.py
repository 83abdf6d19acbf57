"""`progdistill plan`: what a run would do, before anything is spent."""

import argparse

from progdistill.commands.common import add_json_argument, print_json
from progdistill.options import add_run_options, options_from_namespace


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    text = "show stages, updates, images and disk of a run with the same options, and check them"
    parser = subparsers.add_parser("plan", help=text, description=text)
    add_run_options(parser)
    add_json_argument(parser)
    parser.set_defaults(run=_plan)


def _plan(args: argparse.Namespace) -> int:
    from progdistill.prepare import prepare_run

    prepared = prepare_run(options_from_namespace(vars(args)))
    if args.json:
        print_json(prepared.facts())
    else:
        print(prepared.describe())
    return 0
