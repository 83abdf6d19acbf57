"""What is measured of a checkpoint, and beside which baseline."""

from typing import NamedTuple

from progdistill.diffusion.names import SamplerName
from progdistill.evaluation.config import EvaluationSettings
from progdistill.registry.checkpoint import CheckpointKind, CheckpointManifest
from progdistill.store.base import Store
from progdistill.store.documents import read_record
from progdistill.store.layout import checkpoint_key
from progdistill.training.guidance import weight_for


class PlannedMeasurement(NamedTuple):
    """One measurement of a record: the record's field, and what to sample how."""

    field: str
    checkpoint: CheckpointManifest
    sampler: SamplerName
    gamma: float | None = None


def guided_as(manifest: CheckpointManifest, settings: EvaluationSettings) -> EvaluationSettings:
    """The settings with the weight that a checkpoint is sampled with, and its baselines beside it.

    None stands for 0, which is no guidance. UsageError for a weight that the checkpoint cannot take.
    """
    return settings.model_copy(update={"guidance": weight_for(manifest, settings.guidance) or None})


def ddim_plan(manifest: CheckpointManifest, baseline: CheckpointManifest | None) -> list[PlannedMeasurement]:
    """The measurements with DDIM."""
    asked = [PlannedMeasurement("distilled", manifest, SamplerName.DDIM)]
    if baseline is not None:
        asked.append(PlannedMeasurement("baseline_ddim", baseline, SamplerName.DDIM))
    return asked


def sampled_ancestrally(
    manifest: CheckpointManifest, baseline: CheckpointManifest | None, settings: EvaluationSettings
) -> list[tuple[str, CheckpointManifest]]:
    """The record's fields of ancestral sampling, and the checkpoints; γ is yet to be chosen."""
    found = [] if baseline is None else [("baseline_ancestral", baseline)]
    if settings.stochastic_students and manifest.identity.kind is CheckpointKind.STUDENT:
        found.append(("distilled_ancestral", manifest))
    return found


def baseline_of(store: Store, manifest: CheckpointManifest) -> CheckpointManifest | None:
    """Follow the teachers of a checkpoint up to the base or imported model, across runs.

    A base model is its own baseline. None where a teacher on the way is no longer in the store.
    """
    while manifest.identity.kind is CheckpointKind.STUDENT and manifest.identity.parent is not None:
        teacher = read_record(store, checkpoint_key(manifest.identity.parent), CheckpointManifest)
        if teacher is None:
            return None
        manifest = teacher
    return manifest
