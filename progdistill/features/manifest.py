"""The records of an evaluator: what its features are, and which evaluator a recipe gave."""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, JsonValue, model_validator

from progdistill.errors import LostInvariantError
from progdistill.models_base import Frozen, content_id
from progdistill.store.base import Store
from progdistill.store.digest import FileDigest, Sha256
from progdistill.store.documents import Record, Timestamp, read_record, require_blob
from progdistill.store.layout import blob_key, evaluator_key


class EvaluatorIdentity(Frozen):
    """Everything that decides which features an image gets."""

    name: str
    distance_name: str = Field(description="what reports call the Fréchet distance in these features")
    weights: FileDigest
    recipe: dict[str, JsonValue] = Field(description="how the weights were obtained and images are preprocessed")
    numerics_version: int

    @property
    def id(self) -> str:
        """SHA-256 of the canonical JSON of this identity."""
        return content_id(self)


class EvaluatorManifest(Record):
    """The record that makes an evaluator exist."""

    schema_version: Literal[2] = 2
    id: Sha256
    identity: EvaluatorIdentity
    test_accuracy: float | None = Field(description="on images it was not trained on; None if it was not trained here")
    created_at: Timestamp
    code_version: str

    @model_validator(mode="after")
    def _id_matches_identity(self) -> "EvaluatorManifest":
        if self.id != self.identity.id:
            raise ValueError(f"id {self.id} is not that of its identity, {self.identity.id}")
        return self

    def references(self) -> Iterable[str]:
        """See Record.references."""
        return (blob_key(self.identity.weights.sha256),)


class RecipeRecord(Record):
    """Which evaluator a recipe gave in this store; trained again elsewhere, its weights may differ."""

    schema_version: Literal[1] = 1
    recipe: dict[str, JsonValue]
    evaluator_id: Sha256

    def references(self) -> Iterable[str]:
        """See Record.references."""
        return (evaluator_key(self.evaluator_id),)


def load_evaluator_manifest(store: Store, evaluator_id: str) -> EvaluatorManifest:
    """Read an evaluator's manifest by id; LostInvariantError if it is missing."""
    manifest = read_record(store, evaluator_key(evaluator_id), EvaluatorManifest)
    if manifest is None:
        raise LostInvariantError(f"{store.uri}/{evaluator_key(evaluator_id)} is missing, but records refer to it")
    return manifest


def require_evaluator(store: Store, evaluator_id: str) -> None:
    """Raise LostInvariantError unless an evaluator's manifest can be read and its weights have their size."""
    require_blob(store, load_evaluator_manifest(store, evaluator_id).identity.weights)
