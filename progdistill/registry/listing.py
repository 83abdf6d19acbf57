"""The checkpoints of a store at a glance, with the measurement that stands for each."""

from collections.abc import Sequence
from datetime import datetime

from progdistill.errors import ProgdistillError, UsageError
from progdistill.models_base import Frozen
from progdistill.registry.aliases import aliases_by_checkpoint
from progdistill.registry.checkpoint import CheckpointManifest, list_manifests
from progdistill.registry.evaluations import Measurement, best_record, evaluations_of
from progdistill.registry.runs import require_run
from progdistill.store.base import Store
from progdistill.store.documents import read_in_order
from progdistill.store.layout import EVALUATIONS


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
    held = None if run is None else require_run(store, run, unreadable).values()
    names = aliases_by_checkpoint(store, unreadable)
    wanted = (
        manifest
        for manifest in list_manifests(store, unreadable)
        if dataset in (None, manifest.provenance.dataset_name)
        and sampling_steps in (None, manifest.identity.sampling_steps)
        and (held is None or manifest.id in held)
    )
    measured = {item.key.split("/")[1] for item in store.list(EVALUATIONS)}

    def summary_of(manifest: CheckpointManifest) -> CheckpointSummary:
        found = evaluations_of(store, manifest.id, unreadable) if manifest.id in measured else []
        return _summary(manifest, best_record(manifest, found), names.get(manifest.id, ()))

    found = [read() for read in read_in_order(store, summary_of, wanted)]
    if max_distance is not None:
        distance_names = sorted({summary.distance_name for summary in found if summary.distance_name})
        if len(distance_names) > 1:
            raise UsageError(
                f"cannot select by distance: {' and '.join(distance_names)} are not comparable; narrow the"
                " list by dataset or run"
            )
        found = [s for s in found if s.distance is not None and s.distance <= max_distance]
    return sorted(found, key=lambda summary: summary.created_at)


def _summary(manifest: CheckpointManifest, record: Measurement | None, aliases: Sequence[str]) -> CheckpointSummary:
    identity, provenance = manifest.identity, manifest.provenance
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
        aliases=tuple(aliases),
    )
