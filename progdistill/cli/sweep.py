"""`progdistill sweep`: a grid of settings, run side by side and compared; flows/sweep_flow.py starts here too."""

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from progdistill.cli.common import Verbs, described, print_json
from progdistill.cli.flows import Program, run_script, start
from progdistill.config.options import add_run_options
from progdistill.config.sweep import SWEEP_OPTIONS, resolve_sweep
from progdistill.errors import UsageError
from progdistill.escape import printable

EXAMPLES = """
    progdistill sweep --over distill.learning_rate=5e-4,1e-3 --seeds 4 --plan
    progdistill sweep --over distill.learning_rate=5e-4,1e-3 --over ladder=64:1,64:1:4 --seeds 4
    """


def add_parser(verbs: Verbs) -> None:
    """Add the verb. What its parser does not know is for Metaflow's `run`."""
    text = "run every combination of some settings with several seeds, and compare them"
    parser = verbs.add_parser("sweep", **described(text, EXAMPLES), allow_abbrev=False)
    add_run_options(parser, SWEEP_OPTIONS)
    parser.add_argument("--plan", action="store_true", help="show the runs, their updates, time and cost; run nothing")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.set_defaults(run=_from_cli, takes_unknown=True)


def _from_cli(args: argparse.Namespace) -> int:
    if not args.plan:
        if args.json:
            raise UsageError("--json is for --plan: leave it out, and read runs/RUN/report/sweep.json afterward")
        return start(program(), [], "run", vars(args), args.unknown)
    from progdistill.run.sweep import prepare_sweep

    if args.unknown:
        raise UsageError(f"{args.unknown[0]} is no option of `sweep --plan`")
    sweep = prepare_sweep(resolve_sweep(vars(args)))
    if args.json:
        print_json(sweep.facts())
    else:
        print(printable(sweep.describe()))
    return 0


def program(flow: Any = None) -> Program:
    """`progdistill sweep`, or the script of a class."""
    from progdistill.sweep_flow import SweepFlow

    if flow is not None:
        return Program(flow, SWEEP_OPTIONS, _prepare, None, f"python {sys.argv[0]} resume --origin-run-id ")
    entrypoint = (sys.executable, "-P", "-m", "progdistill.cli.sweep")
    resume = "progdistill resume --origin-run-id SweepFlow/"
    return Program(SweepFlow, SWEEP_OPTIONS, _prepare, entrypoint, resume)


def _prepare(typed: Mapping[str, Any]) -> BaseModel:
    from progdistill.run.sweep import prepare_sweep

    return prepare_sweep(resolve_sweep(typed))


def main(flow: Any = None) -> None:
    """Run the script of a class with the arguments of the process, and exit; None: a task of `progdistill sweep`."""
    run_script(program(flow))


if __name__ == "__main__":
    main()
