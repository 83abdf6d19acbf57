"""`progdistill plan`, `run` and `resume`; flows/distill_flow.py starts here too."""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from progdistill.cli.common import Verbs, add_verb, check_output, described, print_json
from progdistill.cli.flows import Program, add_origin, run_script, start
from progdistill.config.options import RUN_OPTIONS, add_run_options, resolve_options
from progdistill.errors import UsageError
from progdistill.escape import printable

VERBS = {
    "run": "train, distill, evaluate and report, with any option of Metaflow's `run` (such as --tag NAME)",
    "resume": "resume an interrupted or failed run, with any option of Metaflow's `resume`",
}
EXAMPLES = {
    "run": """
        progdistill run
        progdistill run --dataset flowers --ladder 64:4
        progdistill run --from DistillFlow/RUN/8 --set distill.learning_rate=5e-4
        progdistill run --store s3://BUCKET/models --launcher kubernetes --set cluster.image=IMAGE
        """,
    "resume": "progdistill resume --origin-run-id RUN",
}
MEASURED_UPDATES = 20
"""Of `plan --measure`."""


def _program(flow: Any = None) -> Program:
    """`progdistill run`, or the script of a class."""
    from progdistill.flow import DistillFlow

    if flow is not None:
        resume = f"python {sys.argv[0]} resume --origin-run-id "
        return Program(flow, RUN_OPTIONS, _prepare, None, resume)
    entrypoint = (sys.executable, "-P", "-m", "progdistill.cli.run")
    return Program(DistillFlow, RUN_OPTIONS, _prepare, entrypoint, "progdistill resume --origin-run-id ")


def add_parser(verbs: Verbs) -> None:
    """Add the verbs. What the parsers of `run` and `resume` do not know is for Metaflow."""
    for verb, text in VERBS.items():
        parser = verbs.add_parser(verb, **described(text, EXAMPLES.get(verb, "")), allow_abbrev=False)
        add_run_options(parser) if verb == "run" else add_origin(parser)
        parser.set_defaults(run=_from_cli, verb=verb, takes_unknown=True)
    text = "show stages, updates, images, disk, memory, time and cost of a run with the same options"
    examples = "progdistill plan --dataset flowers --ladder 64:4 --measure"
    plan = add_verb(verbs, "plan", _plan, text, store=False, examples=examples)
    add_run_options(plan)
    count = MEASURED_UPDATES
    text = (
        f"train every kind of network of the run here, for 3 updates and for that many more (default: {count}), to"
        " estimate the time of all"
    )
    plan.add_argument("--measure", nargs="?", type=int, const=count, metavar="UPDATES", help=text)
    text = "with --measure: write a profiler's trace of each kind of training there, and a page that adds it up"
    plan.add_argument("--profile", type=Path, metavar="FOLDER", help=text)


def _plan(args: argparse.Namespace) -> int:
    from progdistill.run.benchmark import measure_here
    from progdistill.run.estimate import estimate
    from progdistill.run.prepare import prepare_run

    if args.measure is not None and args.measure < 1:
        raise UsageError(f"--measure {args.measure}: give 1 or more updates")
    if args.profile is not None and args.measure is None:
        raise UsageError("--profile profiles what --measure trains: give both")
    if args.profile is not None:
        check_output("--profile", args.profile, folder=True)
    prepared = prepare_run(resolve_options(vars(args)))
    measured = [] if args.measure is None else measure_here(prepared, args.measure, args.profile)
    takes = estimate(prepared, measured, activations=prepared.trains_long)
    if args.json:
        print_json({**prepared.facts(), "estimate": takes.model_dump(mode="json")})
    else:
        print(printable(f"{prepared.describe()}\n{takes.describe()}"))
    return 0


def _from_cli(args: argparse.Namespace) -> int:
    typed = vars(args)
    origin = typed.get("origin_run_id") or ""
    if origin.startswith("SweepFlow/"):
        from progdistill.cli.sweep import program

        return start(program(), [], args.verb, {"origin_run_id": origin.removeprefix("SweepFlow/")}, args.unknown)
    return start(_program(), [], args.verb, typed, args.unknown)


def main(flow: Any = None) -> None:
    """Run a flow's script with the arguments of the process, and exit: any command of Metaflow.

    Args:
        flow: the script's class. None: `progdistill run` has started this process for a task.
    """
    run_script(_program(flow))


def _prepare(typed: Mapping[str, Any]) -> BaseModel:
    from progdistill.flow import LIVE_CARDS
    from progdistill.run.prepare import prepare_run

    prepared = prepare_run(resolve_options(typed))
    os.environ.setdefault(LIVE_CARDS, "1" if prepared.trains_long else "0")
    return prepared


if __name__ == "__main__":
    main()
