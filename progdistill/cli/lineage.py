"""`progdistill lineage`: the tree of teachers and students across runs."""

import argparse
import sys
from pathlib import Path
from typing import Any

from progdistill.cli.common import Verbs, add_verb, check_output, print_json, status_of, store_of, writing
from progdistill.errors import ProgdistillError
from progdistill.registry.lineage import LineageNode, draw, lineage_tree
from progdistill.registry.openlineage import run_events
from progdistill.registry.resolve import resolve_reference


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "lineage", _lineage, "draw the tree of teachers and students across runs")
    parser.add_argument("reference", metavar="REF", nargs="?", help="mark this checkpoint and show only its tree")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write an interactive HTML page")
    parser.add_argument("--openlineage", metavar="FLOW/RUN", help="print a run's OpenLineage events (JSON)")


def _lineage(args: argparse.Namespace) -> int:
    store = store_of(args)
    if args.openlineage is not None:
        print_json(run_events(store, args.openlineage))
        return 0
    if args.html is not None:
        check_output("--html", args.html)
    chosen = resolve_reference(store, args.reference).id if args.reference else None
    unreadable: list[ProgdistillError] = []
    roots = lineage_tree(store, chosen, unreadable)
    if args.html is not None:
        from progdistill.report.lineage_page import lineage_page

        page = lineage_page(store, roots, chosen)
        with writing("--html", args.html):
            args.html.write_text(page, encoding="utf-8")
        if args.json:
            print_json({"html": str(args.html)})
        else:
            print(args.html)
    elif args.json:
        print_json([_facts(root) for root in roots])
    elif roots:
        print("\n".join(draw(roots, chosen)))
    else:
        print(f"no checkpoint in {store.uri} yet", file=sys.stderr)
    return status_of(unreadable)


def _facts(node: LineageNode) -> dict[str, Any]:
    return {
        "manifest": node.manifest.model_dump(mode="json"),
        "aliases": node.aliases,
        "runs": node.runs,
        "evaluations": [record.model_dump(mode="json") for record in node.evaluations],
        "children": [_facts(child) for child in node.children],
    }
