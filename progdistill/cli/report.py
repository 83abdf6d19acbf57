"""`progdistill report` rebuilds the report of a run; `progdistill compare` puts several runs side by side."""

import argparse
import os
import webbrowser
from pathlib import Path

from progdistill.cli.common import Verbs, add_verb, check_output, print_json, print_table, writing
from progdistill.errors import require_between
from progdistill.escape import one_line

HIGHEST_PRICE = 1e9
"""In any currency."""


def add_parser(verbs: Verbs) -> None:
    """Add both verbs."""
    report = add_verb(verbs, "report", _report, "rebuild the report of a run and print its path", store=False)
    text = "run id or run folder (default: latest)"
    report.add_argument("run_id", metavar="RUN", nargs="?", default="latest", help=text)
    report.add_argument("--open", action="store_true", help="open it in a browser")
    text = "machine price per hour, to show the cost of each stage"
    report.add_argument("--price-per-hour", type=float, metavar="P", help=text)
    compare = add_verb(verbs, "compare", _compare, "compare distances and settings of several runs", store=False)
    compare.add_argument("run_ids", nargs="+", metavar="RUN", help="run ids, `latest` or run folders")
    compare.add_argument("--out", type=Path, default=Path("comparison"), help="output folder (default: %(default)s)")


def _report(args: argparse.Namespace) -> int:
    from progdistill.report.build import rebuild_report
    from progdistill.run.report import report_folder

    require_between("--price-per-hour", args.price_per_hour, 0, HIGHEST_PRICE)
    folder = report_folder(args.run_id)
    with writing("the report", folder):
        page = rebuild_report(folder, price_per_hour=args.price_per_hour)
    if args.json:
        print_json({name: str(page.parent / name) for name in sorted(os.listdir(page.parent))})
    else:
        print(page)
    if args.open:
        webbrowser.open(page.absolute().as_uri())
    return 0


def _compare(args: argparse.Namespace) -> int:
    from progdistill.report.build import read_input
    from progdistill.report.comparison import build_comparison, compare_runs
    from progdistill.report.input import counts_text, number
    from progdistill.run.report import report_folder

    runs = [read_input(report_folder(run_id)) for run_id in args.run_ids]
    comparison = compare_runs(runs)
    check_output("--out", args.out, folder=True)
    with writing("--out", args.out):
        page = build_comparison(runs, args.out)
    if args.json:
        print_json({**comparison.model_dump(mode="json"), "page": str(page)})
        return 0
    print(one_line(f"{comparison.distance_name} of {counts_text(runs[0])}"))
    rows = [(f"{row.sampling_steps:,}", *map(number, row.distances)) for row in comparison.rows]
    print_table([("sampling steps", *comparison.run_ids), *rows])
    print(page)
    return 0
