"""The checkpoints of a store at a glance, with the measurement that stands for each."""

from collections.abc import Iterator
from datetime import datetime

from progdistill.errors import ProgdistillError, UsageError
from progdistill.models_base import Frozen
from progdistill.registry.aliases import list_aliases
from progdistill.registry.checkpoint import CheckpointManifest, list_manifests
from progdistill.registry.evaluations import best_record, evaluations_of
from progdistill.registry.runs import list_run_checkpoints
from progdistill.store.base import Store


class CheckpointSummary(Frozen):
    """One line of a list of checkpoints."""

    id: str
    kind: str
    sampling_steps: int | None
    dataset: str
    parent: str | None
    created_by: str | None
    created_at: datetime
    bytes: int
    distance: float | None
    distance_name: str | None
    aliases: tuple[str, ...]


def list_checkpoints(
    store: Store,
    *,
    dataset: str | None = None,
    sampling_steps: int | None = None,
    run: str | None = None,
    max_distance: float | None = None,
    unreadable: list[ProgdistillError] | None = None,
) -> list[CheckpointSummary]:
    """List the checkpoints of a store, newest last.

    Args:
        store: The store to read.
        dataset: Only checkpoints trained on the dataset of this name.
        sampling_steps: Only students of this many sampling steps.
        run: Only checkpoints that the run `Flow/run id` holds.
        max_distance: Only checkpoints measured at this distance or less.
        unreadable: If given, errors of damaged records are appended here instead of raised.

    Raises:
        UsageError: The run is unknown, or `max_distance` would compare different distances.
    """
    held = None if run is None else checkpoints_of_run(store, run)
    found = [
        manifest
        for manifest in list_manifests(store, unreadable)
        if dataset in (None, manifest.provenance.dataset_name)
        and sampling_steps in (None, manifest.identity.sampling_steps)
        and (held is None or manifest.id in held)
    ]
    names = aliases_by_checkpoint(store)
    summaries = [_summary(store, manifest, names, unreadable) for manifest in found]
    if max_distance is not None:
        summaries = list(_within(summaries, max_distance))
    return sorted(summaries, key=lambda summary: summary.created_at)


def checkpoints_of_run(store: Store, run: str) -> set[str]:
    """Return the ids of the checkpoints that `Flow/run id` holds; UsageError for an unknown run."""
    held = {e.checkpoint_id for e in list_run_checkpoints(store) if f"{e.flow}/{e.run_id}" == run}
    if not held:
        raise UsageError(f"no run {run} in store {store.uri}; give it as Flow/run id (`progdistill lineage`)")
    return held


def aliases_by_checkpoint(store: Store) -> dict[str, tuple[str, ...]]:
    """Return the current aliases of each checkpoint id that has any."""
    names: dict[str, tuple[str, ...]] = {}
    for alias in list_aliases(store):
        if alias.checkpoint_id is not None:
            names[alias.checkpoint_id] = (*names.get(alias.checkpoint_id, ()), alias.name)
    return names


def _summary(
    store: Store,
    manifest: CheckpointManifest,
    aliases: dict[str, tuple[str, ...]],
    unreadable: list[ProgdistillError] | None,
) -> CheckpointSummary:
    identity, provenance = manifest.identity, manifest.provenance
    record = best_record(manifest, evaluations_of(store, manifest.id, unreadable))
    return CheckpointSummary(
        id=manifest.id,
        kind=identity.kind,
        sampling_steps=identity.sampling_steps,
        dataset=provenance.dataset_name,
        parent=identity.parent,
        created_by=provenance.created_by,
        created_at=provenance.created_at,
        bytes=identity.weights.size_bytes,
        distance=None if record is None else record.distance,
        distance_name=None if record is None else record.distance_name,
        aliases=aliases.get(manifest.id, ()),
    )


def _within(summaries: list[CheckpointSummary], limit: float) -> Iterator[CheckpointSummary]:
    names = sorted({summary.distance_name for summary in summaries if summary.distance_name})
    if len(names) > 1:
        raise UsageError(
            f"cannot select by distance: {' and '.join(names)} are not comparable; narrow the list by dataset"
            " or run"
        )
    return (summary for summary in summaries if summary.distance is not None and summary.distance <= limit)
