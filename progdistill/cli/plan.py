"""`progdistill plan`: what a run would do, before anything is spent."""

import argparse

from progdistill.cli.common import add_json_argument, print_json
from progdistill.config.options import add_run_options, resolve_options
from progdistill.errors import UsageError

MEASURED_UPDATES = 20


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    text = "show stages, updates, images, disk, memory, time and cost of a run with the same options"
    parser = subparsers.add_parser("plan", help=text, description=text)
    add_run_options(parser)
    parser.add_argument(
        "--measure",
        nargs="?",
        type=int,
        const=MEASURED_UPDATES,
        metavar="UPDATES",
        help=f"train that many updates here (default: {MEASURED_UPDATES}) to estimate the time of all",
    )
    add_json_argument(parser)
    parser.set_defaults(run=_plan)


def _plan(args: argparse.Namespace) -> int:
    from progdistill.run.benchmark import measure_here
    from progdistill.run.estimate import estimate
    from progdistill.run.prepare import prepare_run

    if args.measure is not None and args.measure < 1:
        raise UsageError(f"--measure {args.measure}: give 1 or more updates")
    prepared = prepare_run(resolve_options(vars(args)))
    rates = [] if args.measure is None else measure_here(prepared, args.measure)
    takes = estimate(prepared, rates)
    if args.json:
        print_json({**prepared.facts(), "estimate": takes.model_dump(mode="json")})
    else:
        print(prepared.describe(), takes.describe(), sep="\n")
    return 0
