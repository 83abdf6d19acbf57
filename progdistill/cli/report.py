"""`progdistill report`: rebuild the report of a run from its input file."""

import argparse
import os
import webbrowser

from progdistill.cli.common import add_json_argument, print_json, writing
from progdistill.errors import require_between
from progdistill.run.report import report_folder

HIGHEST_PRICE = 1e9
"""In any currency."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    text = "rebuild the report of a run and print its path"
    parser = subparsers.add_parser("report", help=text, description=text)
    parser.add_argument(
        "run_id", metavar="RUN", nargs="?", default="latest", help="run id or run folder (default: latest)"
    )
    parser.add_argument("--open", action="store_true", help="open it in a browser")
    parser.add_argument(
        "--price-per-hour", type=float, metavar="P", help="machine price per hour, to show the cost of each stage"
    )
    add_json_argument(parser)
    parser.set_defaults(run=_report)


def _report(args: argparse.Namespace) -> int:
    from progdistill.report.build import rebuild_report

    price = args.price_per_hour
    require_between("--price-per-hour", price, 0, HIGHEST_PRICE)
    folder = report_folder(args.run_id)
    with writing("the report", folder):
        page = rebuild_report(folder, price_per_hour=price)
    if args.json:
        print_json({name: str(page.parent / name) for name in sorted(os.listdir(page.parent))})
    else:
        print(page)
    if args.open:
        webbrowser.open(page.absolute().as_uri())
    return 0
