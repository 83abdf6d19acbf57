"""Checkpoints as records: manifests and weights files. `models/load.py` makes a network of one."""

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import Field, JsonValue, PositiveInt, model_validator

from progdistill.errors import LostInvariantError, ProgdistillError, UsageError
from progdistill.models_base import Frozen, content_id
from progdistill.notebook import html_table
from progdistill.progress import format_duration
from progdistill.store.base import Store
from progdistill.store.digest import FileDigest, Sha256
from progdistill.store.documents import (
    Record,
    Timestamp,
    collect_errors,
    publish_record,
    read_in_order,
    read_record,
    require_blob,
)
from progdistill.store.layout import CHECKPOINTS, blob_key, checkpoint_key, pipeline_key
from progdistill.store.open import mark_layout

Result = TypeVar("Result")


class CheckpointKind(StrEnum):
    """How a checkpoint came to be."""

    BASE = "base"
    STUDENT = "student"
    IMPORTED = "imported"


class CheckpointDescription(Frozen):
    """What a checkpoint is, apart from its weights: with them it makes the identity."""

    kind: CheckpointKind
    sampling_steps: PositiveInt | None
    """Steps that a student was distilled to; None for a model that samples with any number of them."""
    prediction: str
    loss_weight: str | None
    schedule: str = "cosine"
    architecture: dict[str, JsonValue]
    """The DenoiserConfig as JSON."""
    dataset_fingerprint: str
    parent: Sha256 | None
    """Id of the teacher."""
    training: dict[str, JsonValue]
    """The settings that the training's numbers depend on."""
    seed: int
    numerics_version: int

    @property
    def objective(self) -> str | None:
        """What a student learned of its teacher's steps, progressive where nothing else is recorded; None: nothing."""
        if "teacher_steps" not in self.training:
            return None
        recorded = self.training.get("objective")
        return str(recorded["name"]) if isinstance(recorded, dict) and "name" in recorded else "progressive"

    @model_validator(mode="after")
    def _student_has_steps_and_teacher(self) -> Self:
        if self.kind is CheckpointKind.STUDENT and (self.sampling_steps is None or self.parent is None):
            raise ValueError("a student has a number of sampling steps and a parent")
        if self.kind is not CheckpointKind.STUDENT and self.sampling_steps is not None:
            raise ValueError(f"a checkpoint of kind {self.kind} samples with any number of steps")
        return self


class CheckpointIdentity(CheckpointDescription):
    """What a checkpoint's id is computed from."""

    weights: FileDigest

    @property
    def id(self) -> str:
        """SHA-256 of the canonical JSON of this identity."""
        return content_id(self)

    @property
    def base(self) -> str | None:
        """Id of the checkpoint that this one, a LoRA, is an adapter of; None: it holds all weights."""
        lora = self.architecture.get("lora")
        return str(lora["base"]) if isinstance(lora, dict) else None


class TrainingFigures(Frozen, allow_inf_nan=False):
    """What the training took: updates, images seen, wall-clock seconds, rate, and the last mean loss."""

    updates: int
    images: int
    seconds: float = Field(ge=0, le=1e9)
    images_per_second: float = Field(ge=0)
    final_loss: float | None
    job: str | None = None
    """The kind of job: train_base, guide or distill."""
    world_size: int | None = None
    peak_memory_bytes: int | None = None
    """Of the first rank: allocated on its GPU, else resident in its process."""
    model_flops_utilization: float | None = Field(None, ge=0)
    """The share of the rate of one large product of matrices on the device that the model's arithmetic reached."""


class Provenance(Frozen):
    """When, where and with what a checkpoint was made: beside its identity, no part of it."""

    created_at: Timestamp
    code_version: str
    code_dirty: bool | None
    """Whether the code had uncommitted changes; None outside a checkout."""
    packages: dict[str, str]
    device: str
    host: str
    created_by: str | None
    """`Flow/run id` of the run that trained it."""
    configuration: dict[str, JsonValue]
    """The run's whole resolved configuration."""
    dataset_name: str
    figures: TrainingFigures | None = None


class CheckpointRef(Frozen):
    """A pointer small enough for a Metaflow artifact or a job's description."""

    store: str
    id: Sha256
    kind: CheckpointKind
    sampling_steps: int | None
    dataset_name: str
    parent: Sha256 | None


class CheckpointManifest(Record):
    """The document that makes a checkpoint exist."""

    schema_version: Literal[2] = 2
    id: Sha256
    identity: CheckpointIdentity
    provenance: Provenance

    @model_validator(mode="after")
    def _id_is_that_of_the_identity(self) -> Self:
        if self.id != self.identity.id:
            raise ValueError(f"id {self.id} is not that of its identity, {self.identity.id}")
        return self

    def references(self) -> Iterable[str]:
        """See Record.references: the weights, the teacher, the base of a LoRA, and the pipeline of a latent model."""
        yield blob_key(self.identity.weights.sha256)
        if self.identity.parent is not None:
            yield checkpoint_key(self.identity.parent)
        if self.identity.base is not None:
            yield checkpoint_key(self.identity.base)
        if pipeline := self.identity.architecture.get("pipeline"):
            yield pipeline_key(str(pipeline))

    def _repr_html_(self) -> str:
        """The checkpoint as a notebook shows it."""
        identity, made = self.identity, self.provenance
        figures = made.figures
        facts = {
            "id": self.id[:12],
            "kind": str(identity.kind),
            "sampling steps": str(identity.sampling_steps or "any"),
            "prediction": identity.prediction,
            "dataset": made.dataset_name,
            "teacher": "none" if identity.parent is None else identity.parent[:12],
            "made": f"{made.created_at:%Y-%m-%d %H:%M} UTC on {made.device}",
            "run": made.created_by or "none",
        }
        if figures is not None:
            facts["training"] = f"{figures.updates:,} updates in {format_duration(figures.seconds)}"
        return html_table(facts.items())

    def ref(self, store: Store) -> CheckpointRef:
        """Point to this checkpoint in `store`."""
        return CheckpointRef(
            store=store.uri,
            id=self.id,
            kind=self.identity.kind,
            sampling_steps=self.identity.sampling_steps,
            dataset_name=self.provenance.dataset_name,
            parent=self.identity.parent,
        )


def publish_checkpoint(
    store: Store,
    weights_path: Path,
    description: CheckpointDescription,
    provenance: Provenance,
    *,
    consume: bool = False,
) -> CheckpointManifest:
    """Publish weights, then the manifest that makes them a checkpoint. A crash leaves no half of it.

    Args:
        store: Where to publish.
        weights_path: A safetensors file.
        description: What the checkpoint is; with the weights' digest it makes the id.
        provenance: Recorded beside it.
        consume: Whether the weights file may be moved into the store.

    Returns:
        The store's manifest: the first one that was published for this checkpoint.
    """
    mark_layout(store)
    weights = store.upload(weights_path, blob_key, consume=consume)
    identity = CheckpointIdentity(**dict(description), weights=weights)
    manifest = CheckpointManifest(id=identity.id, identity=identity, provenance=provenance)
    published = publish_record(store, checkpoint_key(manifest.id), manifest)
    if published.id != manifest.id:
        raise _misplaced(store, manifest.id, published)
    return published


def load_manifest(store: Store, checkpoint_id: str) -> CheckpointManifest:
    """Read a checkpoint's manifest by its full id.

    Raises:
        UsageError: The store has no such checkpoint, or its manifest has an unsupported schema version.
        LostInvariantError: The manifest is damaged.
    """
    manifest = read_manifest(store, checkpoint_id)
    if manifest is None:
        raise UsageError(
            f"no checkpoint {checkpoint_id} in store {store.uri}; `progdistill checkpoints list` shows all"
        )
    return manifest


def read_manifest(store: Store, checkpoint_id: str) -> CheckpointManifest | None:
    """Read a checkpoint's manifest by its full id; None if the store has no such checkpoint."""
    manifest = read_record(store, checkpoint_key(checkpoint_id), CheckpointManifest)
    if manifest is not None and manifest.id != checkpoint_id:
        raise _misplaced(store, checkpoint_id, manifest)
    return manifest


def _misplaced(store: Store, checkpoint_id: str, manifest: CheckpointManifest) -> LostInvariantError:
    return LostInvariantError(
        f"{store.uri}/{checkpoint_key(checkpoint_id)} holds the manifest of {manifest.id}: remove it, and"
        " run again what made the checkpoint"
    )


def base_of(store: Store, manifest: CheckpointManifest) -> CheckpointManifest:
    """The checkpoint that a LoRA goes onto.

    Raises:
        UsageError: The store does not have it.
    """
    base_id = str(manifest.identity.base)
    base = read_manifest(store, base_id)
    if base is None:
        raise UsageError(
            f"checkpoint {manifest.id[:12]} is a LoRA, and its base {base_id} is not in store {store.uri}: import that"
            f" too, `progdistill import {base_id[:12]} --from-store OTHER --name NAME`, or its exported folder"
        )
    return base


def require_checkpoint(store: Store, checkpoint_id: str) -> None:
    """Raise LostInvariantError unless a checkpoint's manifest is intact, and its weights are there."""
    manifest = read_manifest(store, checkpoint_id)
    if manifest is None:
        raise LostInvariantError(f"{store.uri}/{checkpoint_key(checkpoint_id)} is missing from the store")
    require_blob(store, manifest.identity.weights)


def fetch_weights(store: Store, manifest: CheckpointManifest) -> Path:
    """Return a local, read-only safetensors file with the weights, whose digest has been verified."""
    return _with_advice(store.download, manifest.identity.weights)


def verify_weights(store: Store, manifest: CheckpointManifest) -> None:
    """Raise LostInvariantError unless the weights are intact in the store itself, past any local cache."""
    _with_advice(store.verify, manifest.identity.weights)


def _with_advice(read: Callable[[str, FileDigest], Result], weights: FileDigest) -> Result:
    try:
        return read(blob_key(weights.sha256), weights)
    except LostInvariantError as error:
        raise LostInvariantError(
            f"{error}. Restore it from a backup, or remove it and run again what made it"
        ) from error


def list_ids(store: Store) -> list[str]:
    """Return the ids of all checkpoints, sorted, without reading a manifest."""
    return [item.key.split("/")[1] for item in store.list(CHECKPOINTS) if item.key.endswith("/manifest.json")]


def list_manifests(
    store: Store, unreadable: list[ProgdistillError] | None = None, ids: Iterable[str] | None = None
) -> Iterator[CheckpointManifest]:
    """Yield the manifests of all checkpoints in order of id, or of those of `ids` that exist.

    A manifest that cannot be read raises; with `unreadable` the error is appended there and it is skipped.
    """
    for read in read_in_order(store, partial(read_manifest, store), list_ids(store) if ids is None else ids):
        with collect_errors(unreadable):
            manifest = read()
            if manifest is not None:
                yield manifest
