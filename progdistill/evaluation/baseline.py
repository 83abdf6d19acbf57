"""The undistilled model that a student descends from: no torch."""

from progdistill.artifacts.checkpoint import CheckpointKind, CheckpointManifest, manifest_key
from progdistill.artifacts.records import read_record
from progdistill.artifacts.store import Store


def baseline_of(store: Store, manifest: CheckpointManifest) -> CheckpointManifest | None:
    """Follow the teachers of a checkpoint up to the base or imported model, across runs.

    A base model is its own baseline. None where a teacher on the way is no longer in the store.
    """
    while manifest.identity.kind is CheckpointKind.STUDENT and manifest.identity.parent is not None:
        teacher = read_record(store, manifest_key(manifest.identity.parent), CheckpointManifest)
        if teacher is None:
            return None
        manifest = teacher
    return manifest
