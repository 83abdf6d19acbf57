"""`progdistill checkpoints`: what the store holds, whether it is intact, what it is called, what can go."""

import argparse
import getpass
import json
import socket
import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Final

from progdistill.cli.common import (
    add_json_argument,
    add_store_argument,
    print_json,
    require_between,
    status_of,
    store_of,
)
from progdistill.errors import LostInvariantError, ProgdistillError, UsageError
from progdistill.progress import Progress
from progdistill.registry.aliases import list_aliases, move_alias, read_alias
from progdistill.registry.checkpoint import (
    CheckpointManifest,
    blob_key,
    list_ids,
    list_manifests,
    load_manifest,
    manifest_key,
    verify_weights,
)
from progdistill.registry.evaluations import FOLDER as EVALUATIONS
from progdistill.registry.evaluations import Measurement, best_record, evaluations_of
from progdistill.registry.gc import (
    DEFAULT_GRACE,
    DEFAULT_PATIENCE,
    damaged_objects,
    find_garbage,
    remove_garbage,
    require_safe_grace,
)
from progdistill.registry.resolve import resolve_reference
from progdistill.registry.runs import list_run_checkpoints
from progdistill.store.base import Store

SECONDS_PER_DAY: Final = 86_400
MOST_DAYS: Final = 36_500


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb with its own verbs list, show, verify, alias, gc."""
    parser = subparsers.add_parser("checkpoints", help="list, show, verify and name checkpoints")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    listing = _verb(verbs, "list", _list, "one line a checkpoint, newest last")
    listing.add_argument("--dataset", metavar="NAME", help="only those trained on this dataset")
    listing.add_argument("--steps", type=int, metavar="N", help="only students of N sampling steps")
    listing.add_argument("--run", dest="run_name", metavar="FLOW/RUN", help="only those that this run holds")
    listing.add_argument("--max-distance", type=float, metavar="D", help="only those measured at D or better")
    show = _verb(verbs, "show", _show, "everything the manifest says")
    show.add_argument("reference", metavar="REF", help="id or prefix, alias, or Flow/run/steps")
    verify = _verb(verbs, "verify", _verify, "read every byte and compare with its digest")
    verify.add_argument("reference", metavar="REF", nargs="?", help="one checkpoint (default: all)")
    alias = _verb(verbs, "alias", _alias, "name a checkpoint, or show a name's history")
    alias.add_argument("name", metavar="NAME")
    alias.add_argument("reference", metavar="REF", nargs="?", help="what the name shall mean from now on")
    alias.add_argument("--remove", action="store_true", help="remove the name; its history stays")
    collect = _verb(verbs, "gc", _gc, "show what nothing refers to any more, and with --delete remove it")
    collect.add_argument("--delete", action="store_true", help="remove it (default: only show)")
    days = DEFAULT_GRACE.total_seconds() / SECONDS_PER_DAY
    collect.add_argument(
        "--grace-days", type=float, default=days, metavar="D", help="spare the young (%(default)g)"
    )
    days = DEFAULT_PATIENCE.total_seconds() / SECONDS_PER_DAY
    text = "take a job for abandoned whose last snapshot is older (%(default)g)"
    collect.add_argument("--abandoned-days", type=float, default=days, metavar="D", help=text)
    text = "let go of a run's checkpoints first (repeatable)"
    collect.add_argument("--forget-run", action="append", default=[], metavar="FLOW/RUN", help=text)


def _verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text)
    add_store_argument(parser)
    add_json_argument(parser)
    parser.set_defaults(run=run)
    return parser


def _list(args: argparse.Namespace) -> int:
    store = store_of(args)
    unreadable: list[ProgdistillError] = []
    found = sorted(_selected(store, args, unreadable), key=lambda one: one.provenance.created_at)
    names = _names(store)
    rows = [_facts(one, evaluations_of(store, one.id, unreadable), names.get(one.id, [])) for one in found]
    if args.max_distance is not None:
        rows = _within(rows, args.max_distance)
    if args.json:
        print_json(rows)
    elif rows:
        _print_table(rows)
    else:
        print(f"no checkpoint in {store.uri} matches", file=sys.stderr)
    return status_of(unreadable)


def _within(rows: list[dict[str, Any]], limit: float) -> list[dict[str, Any]]:
    measured = [row for row in rows if row["distance"] is not None]
    names = sorted({str(row["distance_name"]) for row in measured})
    if len(names) > 1:
        raise UsageError(
            f"--max-distance: {' and '.join(names)} do not compare; narrow the list with --dataset or --run"
        )
    return [row for row in measured if row["distance"] <= limit]


def _selected(
    store: Store, args: argparse.Namespace, unreadable: list[ProgdistillError]
) -> Iterable[CheckpointManifest]:
    held = None if args.run_name is None else _held_by(store, args.run_name)
    for manifest in list_manifests(store, unreadable):
        if args.dataset is not None and manifest.provenance.dataset_name != args.dataset:
            continue
        if args.steps is not None and manifest.identity.sampling_steps != args.steps:
            continue
        if held is not None and manifest.id not in held:
            continue
        yield manifest


def _held_by(store: Store, run: str) -> set[str]:
    """Ids of the checkpoints that `Flow/run id` holds; UsageError for an unknown run."""
    held = {e.checkpoint_id for e in list_run_checkpoints(store) if f"{e.flow}/{e.run_id}" == run}
    if not held:
        raise UsageError(f"no run {run} in store {store.uri}; give it as Flow/run id (`progdistill lineage`)")
    return held


def _names(store: Store) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for alias in list_aliases(store):
        if alias.checkpoint_id is not None:
            names.setdefault(alias.checkpoint_id, []).append(alias.name)
    return names


def _facts(manifest: CheckpointManifest, evaluations: list[Measurement], names: list[str]) -> dict[str, Any]:
    identity, provenance = manifest.identity, manifest.provenance
    record = best_record(manifest, evaluations)
    return {
        "id": manifest.id,
        "kind": identity.kind,
        "steps": identity.sampling_steps,
        "dataset": provenance.dataset_name,
        "parent": identity.parent,
        "run": provenance.created_by,
        "created": provenance.created_at.isoformat(timespec="seconds"),
        "bytes": identity.weights_bytes,
        "distance": record.distance if record else None,
        "distance_name": record.distance_name if record else None,
        "aliases": names,
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    heads = (
        "id",
        "kind",
        "steps",
        "dataset",
        "parent",
        "run",
        "created",
        "distance",
        "distance_name",
        "aliases",
    )
    lines = [[head.replace("_", " ") for head in heads]]
    lines += [[_shown(head, row[head]) for head in heads] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _shown(head: str, value: Any) -> str:
    if head in ("id", "parent"):
        return str(value)[:12] if value else "-"
    if head == "steps":
        return str(value) if value else "any"
    if head == "distance":
        return f"{value:.3g}" if value is not None else "-"
    if head == "created":
        return str(value)[:16].replace("T", " ")
    if head == "aliases":
        return ", ".join(value)
    return str(value) if value is not None else "-"


def _show(args: argparse.Namespace) -> int:
    store = store_of(args)
    manifest = resolve_reference(store, args.reference)
    facts = manifest.model_dump(mode="json") | {"aliases": _names(store).get(manifest.id, [])}
    if args.json:
        print_json(facts)
    else:
        for name, value in _lines("", facts):
            print(f"{name}: {value}")
    return 0


def _lines(prefix: str, value: Any) -> Iterable[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _lines(f"{prefix}.{name}" if prefix else name, inner)
    else:
        yield prefix, value if isinstance(value, str) else json.dumps(value)


def _verify(args: argparse.Namespace) -> int:
    store = store_of(args)
    ids = [resolve_reference(store, args.reference).id] if args.reference else list_ids(store)
    read: set[str] = set()
    results = []
    with Progress("verifying", total=len(ids), unit="checkpoints") as progress:
        for checkpoint_id in ids:
            results.append(_verified(store, checkpoint_id, read))
            progress.advance()
    prefix = f"{EVALUATIONS}{ids[0]}/" if args.reference else ""
    for key, error in damaged_objects(store, prefix, read):
        results.append({"key": key, "intact": False, "problem": str(error)})
    if args.json:
        print_json(results)
    elif not results:
        print(f"no checkpoint in {store.uri} yet", file=sys.stderr)
    else:
        for result in results:
            name = result["id"][:12] if "id" in result else result["key"]
            print(f"{name}  {'intact' if result['intact'] else result['problem']}")
    return 0 if all(result["intact"] for result in results) else 1


def _verified(store: Store, checkpoint_id: str, read: set[str]) -> dict[str, Any]:
    """Whether a checkpoint is intact; the keys that say so join `read`."""
    try:
        read.add(manifest_key(checkpoint_id))
        manifest = load_manifest(store, checkpoint_id)
        read.add(blob_key(manifest.identity.weights_sha256))
        verify_weights(store, manifest)
    except (LostInvariantError, UsageError) as error:
        return {"id": checkpoint_id, "intact": False, "problem": str(error)}
    return {"id": checkpoint_id, "intact": True, "problem": None}


def _alias(args: argparse.Namespace) -> int:
    if args.remove and args.reference is not None:
        raise UsageError(f"--remove takes the name away: leave {args.reference} out, or --remove")
    store = store_of(args)
    if args.remove:
        found = read_alias(store, args.name)
        if found is None or found.checkpoint_id is None:
            raise UsageError(f"no alias {args.name!r} to remove in store {store.uri}")
        alias = move_alias(store, args.name, None, _mover())
    elif args.reference is not None:
        alias = move_alias(store, args.name, resolve_reference(store, args.reference).id, _mover())
    else:
        found = read_alias(store, args.name)
        if found is None:
            raise UsageError(f"no alias {args.name!r} in store {store.uri}; give a REF to make it")
        alias = found
    if args.json:
        print_json(alias.model_dump(mode="json"))
    else:
        for move in alias.history:
            meaning = move.checkpoint_id[:12] if move.checkpoint_id else "removed"
            print(f"{alias.name}  {meaning:12}  {move.moved_at:%Y-%m-%d %H:%M:%S}  {move.moved_by}")
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
        _held_by(store, run)  # A misspelt run must not pass for one without checkpoints.
    grace = timedelta(days=args.grace_days)
    patience = timedelta(days=args.abandoned_days)
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
    print(f"{len(garbage.objects)} objects, {garbage.size_bytes:,} bytes that nothing refers to")
    if args.delete:
        print(f"removed {removed} objects, leftovers of interrupted work included")
    elif garbage.objects:
        print("nothing was removed; run again with --delete to remove them")
    return 0
