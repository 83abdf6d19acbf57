"""`progdistill lineage`: the tree of teachers and students, across runs."""

import argparse
import sys
from typing import Any

from progdistill.artifacts.lineage import LineageNode, draw, lineage_tree
from progdistill.artifacts.resolve import resolve_reference
from progdistill.commands.common import add_json_argument, add_store_argument, print_json, store_of


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = subparsers.add_parser("lineage", help="draw the tree of teachers and students, across runs")
    parser.add_argument("reference", metavar="REF", nargs="?", help="only the tree with this checkpoint")
    add_store_argument(parser)
    add_json_argument(parser)
    parser.set_defaults(run=_lineage)


def _lineage(args: argparse.Namespace) -> int:
    store = store_of(args)
    roots = lineage_tree(store, args.reference)
    if args.json:
        print_json([_facts(root) for root in roots])
    elif roots:
        chosen = resolve_reference(store, args.reference).id if args.reference else None
        print("\n".join(draw(roots, chosen)))
    else:
        print(f"no checkpoint in {store.uri} yet", file=sys.stderr)
    return 0


def _facts(node: LineageNode) -> dict[str, Any]:
    return {
        "manifest": node.manifest.model_dump(mode="json"),
        "aliases": node.aliases,
        "runs": node.runs,
        "evaluations": node.evaluations,
        "children": [_facts(child) for child in node.children],
    }
