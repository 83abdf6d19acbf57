"""`progdistill compare`: several runs side by side."""

import argparse
from pathlib import Path

from progdistill.cli.common import add_json_argument, check_output, print_json, writing
from progdistill.run.report import report_folder


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    text = "compare distances and settings of several runs"
    parser = subparsers.add_parser("compare", help=text, description=text)
    parser.add_argument("run_ids", nargs="+", metavar="RUN", help="run ids, `latest` or run folders")
    parser.add_argument("--out", type=Path, default=Path("comparison"), help="output folder (default: %(default)s)")
    add_json_argument(parser)
    parser.set_defaults(run=_compare)


def _compare(args: argparse.Namespace) -> int:
    from progdistill.report.build import read_input
    from progdistill.report.comparison import build_comparison, compare_runs
    from progdistill.report.input import counts_text, number

    runs = [read_input(report_folder(run_id)) for run_id in args.run_ids]
    comparison = compare_runs(runs)
    check_output("--out", args.out, folder=True)
    with writing("--out", args.out):
        page = build_comparison(runs, args.out)
    if args.json:
        print_json({**comparison.model_dump(mode="json"), "page": str(page)})
        return 0
    print(f"{comparison.distance_name} of {counts_text(runs[0])}")
    width = max(12, *map(len, comparison.run_ids))
    print("  ".join(["sampling steps", *(run_id.rjust(width) for run_id in comparison.run_ids)]))
    for row in comparison.rows:
        print("  ".join([f"{row.sampling_steps:14,}", *(number(d).rjust(width) for d in row.distances)]))
    print(page)
    return 0
