"""`progdistill checkpoints`: list, show, verify and name checkpoints; collect garbage."""

import argparse
import getpass
import json
import socket
import sys
from datetime import timedelta
from typing import Final

from progdistill.cli.common import Verbs, add_reference_argument, add_verb, print_json, print_table, status_of, store_of
from progdistill.cli.verify import verify
from progdistill.errors import ProgdistillError, UsageError, require_between
from progdistill.escape import one_line
from progdistill.models_base import leaves
from progdistill.registry.aliases import aliases_by_checkpoint, move_alias, read_alias
from progdistill.registry.checkpoint import list_ids
from progdistill.registry.gc import DEFAULT_GRACE, DEFAULT_PATIENCE, find_garbage, remove_garbage, require_safe_grace
from progdistill.registry.listing import list_checkpoints
from progdistill.registry.resolve import resolve_reference
from progdistill.registry.runs import require_run
from progdistill.report.input import number

ONE_DAY: Final = timedelta(days=1)
MOST_DAYS: Final = 36_500
HEAD: Final = (
    *("id", "kind", "sampling steps", "dataset", "parent", "run", "created"),
    *("distance", "distance name", "aliases"),
)


def add_parser(subparsers: Verbs) -> None:
    """Add the verb with its own verbs list, show, verify, alias, gc."""
    text = "list, show, verify and name checkpoints; collect garbage"
    verbs = subparsers.add_parser("checkpoints", help=text, description=text).add_subparsers(
        required=True, metavar="VERB"
    )
    listing = add_verb(verbs, "list", _list, "one line per checkpoint, newest last")
    listing.add_argument("--dataset", metavar="NAME", help="only checkpoints trained on this dataset")
    text = "only students of N sampling steps"
    listing.add_argument("--sampling-steps", "--steps", type=int, metavar="N", help=text)
    listing.add_argument("--run", dest="run_name", metavar="FLOW/RUN", help="only checkpoints that this run holds")
    text = "only checkpoints with a distance of D or less"
    listing.add_argument("--max-distance", type=float, metavar="D", help=text)
    add_reference_argument(add_verb(verbs, "show", _show, "print the manifest of a checkpoint"))
    verifying = add_verb(verbs, "verify", verify, "read everything and check it against its digests")
    verifying.add_argument("reference", metavar="REF", nargs="?", help="one checkpoint (default: all)")
    alias = add_verb(verbs, "alias", _alias, "name a checkpoint, or show the history of a name")
    alias.add_argument("name", metavar="NAME")
    alias.add_argument("reference", metavar="REF", nargs="?", help="checkpoint the alias points to")
    alias.add_argument("--remove", action="store_true", help="remove the alias; its history stays")
    collect = add_verb(verbs, "gc", _gc, "list (or delete) unreferenced objects")
    collect.add_argument("--delete", action="store_true", help="delete them (default: only list)")
    text = "keep objects newer than D days (default: %(default)g)"
    collect.add_argument("--grace-days", type=float, default=DEFAULT_GRACE / ONE_DAY, metavar="D", help=text)
    text = "treat unfinished jobs older than D days as abandoned (default: %(default)g)"
    collect.add_argument("--abandoned-days", type=float, default=DEFAULT_PATIENCE / ONE_DAY, metavar="D", help=text)
    text = "also delete this run's checkpoints (repeatable)"
    collect.add_argument("--forget-run", action="append", default=[], metavar="FLOW/RUN", help=text)


def _list(args: argparse.Namespace) -> int:
    store = store_of(args)
    unreadable: list[ProgdistillError] = []
    found = list_checkpoints(
        store,
        dataset=args.dataset,
        sampling_steps=args.sampling_steps,
        run=args.run_name,
        max_distance=args.max_distance,
        unreadable=unreadable,
    )
    if args.json:
        print_json([summary.model_dump(mode="json") for summary in found])
    elif found:
        rows = [
            (
                s.id[:12],
                s.kind,
                str(s.sampling_steps or "any"),
                s.dataset,
                (s.parent or "-")[:12],
                s.created_by or "-",
                f"{s.created_at:%Y-%m-%d %H:%M}",
                "-" if s.distance is None else number(s.distance),
                s.distance_name or "-",
                ", ".join(s.aliases),
            )
            for s in found
        ]
        print_table([HEAD, *rows])
    else:
        print(f"no checkpoint in {store.uri}{' matches' if list_ids(store) else ' yet'}", file=sys.stderr)
    return status_of(unreadable)


def _show(args: argparse.Namespace) -> int:
    store = store_of(args)
    manifest = resolve_reference(store, args.reference)
    unreadable: list[ProgdistillError] = []
    facts = manifest.model_dump(mode="json") | {
        "aliases": aliases_by_checkpoint(store, unreadable).get(manifest.id, ())
    }
    if args.json:
        print_json(facts)
    else:
        for name, value in leaves(facts):
            print(one_line(f"{name}: {value if isinstance(value, str) else json.dumps(value)}"))
    return status_of(unreadable)


def _alias(args: argparse.Namespace) -> int:
    if args.remove and args.reference is not None:
        raise UsageError(f"--remove cannot be combined with {args.reference}: give one of them")
    store = store_of(args)
    if args.reference is not None:
        alias = move_alias(store, args.name, resolve_reference(store, args.reference).id, _mover())
    else:
        found = read_alias(store, args.name)
        if found is None or (args.remove and found.checkpoint_id is None):
            raise UsageError(f"no alias {args.name!r} in store {store.uri}; give a REF to create it")
        alias = move_alias(store, args.name, None, _mover()) if args.remove else found
    if args.json:
        print_json(alias.model_dump(mode="json"))
    else:
        for move in alias.history:
            target = move.checkpoint_id[:12] if move.checkpoint_id else "removed"
            print(one_line(f"{alias.name}  {target:12}  {move.moved_at:%Y-%m-%d %H:%M:%S}  {move.moved_by}"))
    return 0


def _mover() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # A container's user may have no name.
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def _gc(args: argparse.Namespace) -> int:
    require_between("--grace-days", args.grace_days, 0, MOST_DAYS)
    require_between("--abandoned-days", args.abandoned_days, 0, MOST_DAYS)
    store = store_of(args)
    for run in args.forget_run:
        require_run(store, run, [])  # A misspelled run must not pass for one without checkpoints.
    grace, patience = args.grace_days * ONE_DAY, args.abandoned_days * ONE_DAY
    if args.delete:
        require_safe_grace(store, grace)
    garbage = find_garbage(store, grace=grace, patience=patience, forget_runs=args.forget_run)
    removed = remove_garbage(store, garbage) if args.delete else 0
    if args.json:
        keys = [item.key for item in garbage.objects]
        print_json({"objects": keys, "bytes": garbage.size_bytes, "removed": removed})
        return 0
    for item in garbage.objects:
        print(f"{item.size_bytes:>14,}  {item.modified_at:%Y-%m-%d %H:%M}  {item.key}")
    print(f"{len(garbage.objects)} unreferenced objects, {garbage.size_bytes:,} bytes")
    if args.delete:
        print(f"deleted {removed} objects, including leftovers of interrupted work")
    elif garbage.objects:
        print("nothing was deleted; repeat with --delete to delete them")
    return 0
