"""Finds a checkpoint by the reference that a person types."""

import difflib
import re
from typing import Final

from progdistill.errors import ProgdistillError, UsageError
from progdistill.registry.aliases import ALIAS_NAME, list_aliases, read_alias
from progdistill.registry.checkpoint import CheckpointManifest, list_ids, list_manifests, load_manifest
from progdistill.registry.runs import list_run_checkpoints, run_checkpoints
from progdistill.store.base import Store

SHORTEST_PREFIX: Final = 4

_ID_PREFIX: Final = re.compile(rf"[0-9a-f]{{{SHORTEST_PREFIX},64}}")
_RUN: Final = re.compile(r"([A-Za-z_]\w*)/([A-Za-z0-9_][A-Za-z0-9._-]*)/([0-9]{1,9})", re.ASCII)


def resolve_reference(store: Store, text: str) -> CheckpointManifest:
    """Find a checkpoint by reference.

    Args:
        store: Where to look.
        text: An id, a unique prefix of one (4 digits or more), an alias, or `Flow/run id/steps`.

    Raises:
        UsageError: There is no such checkpoint, or the prefix is ambiguous; the message lists candidates.
    """
    if run := _RUN.fullmatch(text):
        return load_manifest(store, _of_run(store, run[1], run[2], int(run[3])))
    if _ID_PREFIX.fullmatch(text):
        return load_manifest(store, _of_prefix(store, text))
    return load_manifest(store, _of_alias(store, text))


def _of_run(store: Store, flow: str, run_id: str, sampling_steps: int) -> str:
    unreadable: list[ProgdistillError] = []
    found = run_checkpoints(store, flow, run_id, unreadable)
    if sampling_steps in found:
        return found[sampling_steps]
    if unreadable:
        raise unreadable[0]
    if found:
        steps = ", ".join(str(steps) for steps in found)
        raise UsageError(f"run {flow}/{run_id} has no checkpoint at {sampling_steps} steps; it has them at {steps}")
    runs = sorted({f"{entry.flow}/{entry.run_id}" for entry in list_run_checkpoints(store, [])})
    nearest = _nearest(f"{flow}/{run_id}", runs) or "no run has finished a stage there yet"
    raise UsageError(f"no run {flow}/{run_id} in store {store.uri}; {nearest}")


def _of_prefix(store: Store, prefix: str) -> str:
    candidates = [checkpoint_id for checkpoint_id in list_ids(store) if checkpoint_id.startswith(prefix)]
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise UsageError(f"no checkpoint {prefix} in store {store.uri}; `progdistill checkpoints list` shows all")
    described = "".join(f"\n  {_line(found)}" for found in list_manifests(store, [], candidates[:10]))
    more = f"\n  … and {len(candidates) - 10} more" if len(candidates) > 10 else ""
    raise UsageError(f"{prefix} is ambiguous, give more of the id:{described}{more}")


def _of_alias(store: Store, name: str) -> str:
    alias = read_alias(store, name) if ALIAS_NAME.fullmatch(name) else None
    if alias is not None and alias.checkpoint_id is not None:
        return alias.checkpoint_id
    names = [alias.name for alias in list_aliases(store, []) if alias.checkpoint_id is not None]
    raise UsageError(
        f"{name!r:.100} not found in store {store.uri}: not a checkpoint id ({SHORTEST_PREFIX}+ hex digits),"
        f" alias or Flow/run/steps; {_nearest(name, names) or '`progdistill checkpoints list` shows all'}"
    )


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known[-3:]
    return f"did you mean {' or '.join(close)}?" if close else ""


def _line(manifest: CheckpointManifest) -> str:
    steps = manifest.identity.sampling_steps
    made = f"{manifest.provenance.created_at:%Y-%m-%d %H:%M}"
    return f"{manifest.id[:16]}  {manifest.identity.kind}  {steps or 'any'} steps  {made}"
