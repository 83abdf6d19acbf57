"""Small real checkpoints for tests."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from progdistill.registry.checkpoint import (
    CheckpointDescription,
    CheckpointKind,
    CheckpointManifest,
    Provenance,
    publish_checkpoint,
)
from progdistill.registry.evaluations import ContactSheet
from progdistill.store.base import Store
from progdistill.store.documents import publish_record
from tests.evaluation.measurements import any_measurement, any_spec

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


def weights_file(folder: Path, seed: int = 0, megabytes: float = 0.01) -> Path:
    """A safetensors file of random float32 weights."""
    path = folder / f"weights-{seed}-{megabytes}.safetensors"
    values = np.random.default_rng(seed).standard_normal(int(megabytes * 250_000), dtype=np.float32)
    save_file({"layer.weight": values}, path)
    return path


def description(**changes: Any) -> CheckpointDescription:
    """A base model's description, or with changes another one."""
    facts: dict[str, Any] = {
        "kind": CheckpointKind.BASE,
        "sampling_steps": None,
        "prediction": "v",
        "loss_weight": "snr_plus_one",
        "architecture": {"base_channels": 32},
        "dataset_fingerprint": "f" * 64,
        "parent": None,
        "training": {"updates": 10, "learning_rate": 1e-4},
        "seed": 1,
        "numerics_version": 1,
    }
    return CheckpointDescription(**(facts | changes))


def provenance(minutes: int = 0, **changes: Any) -> Provenance:
    """Provenance of a training that ended `minutes` after a fixed beginning."""
    facts: dict[str, Any] = {
        "created_at": BEGINNING + timedelta(minutes=minutes),
        "code_version": "0.1.0",
        "code_dirty": False,
        "packages": {"torch": "2.14.1"},
        "device": "cpu",
        "host": "here",
        "created_by": "DistillFlow/1",
        "configuration": {"seed": 1},
        "dataset_name": "digits",
    }
    return Provenance(**(facts | changes))


def publish_base(store: Store, folder: Path, seed: int = 0) -> CheckpointManifest:
    """Publish a base checkpoint with weights drawn from `seed`."""
    return publish_checkpoint(store, weights_file(folder, seed), description(), provenance())


def publish_student(
    store: Store, folder: Path, parent: CheckpointManifest, steps: int, seed: int = 0
) -> CheckpointManifest:
    """Publish a student of `parent`."""
    identity = description(kind=CheckpointKind.STUDENT, sampling_steps=steps, parent=parent.id, seed=seed)
    later = provenance(minutes=8192 // steps + seed)
    return publish_checkpoint(store, weights_file(folder, 1000 * seed + steps), identity, later)


def measure(
    store: Store,
    manifest: CheckpointManifest,
    distance: float,
    steps: int,
    shown: ContactSheet | None = None,
    name: str = "fd",
    **changes: object,
) -> None:
    """Publish a measurement of a checkpoint."""
    spec = any_spec(checkpoint_id=manifest.id, sampling_steps=steps, **changes)
    publish_record(store, spec.key, any_measurement(spec, distance=distance, distance_name=name, shown=shown))
