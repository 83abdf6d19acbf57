"""How small facts are stored: canonical JSON of a frozen pydantic model, sealed with its own SHA-256."""

import hashlib
import json
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from progdistill.errors import LostInvariantError, UsageError

SEAL: Final = "document_sha256"

Model = TypeVar("Model", bound=BaseModel)


def canonical_json(facts: Any) -> bytes:
    """Encode JSON values so that equal facts give equal bytes (sorted keys, no spaces, no NaN)."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def encode(document: BaseModel) -> bytes:
    """Encode a model as readable JSON with a seal: SHA-256 over the canonical JSON of everything else."""
    facts = document.model_dump(mode="json")
    facts[SEAL] = hashlib.sha256(canonical_json(facts)).hexdigest()
    return (json.dumps(facts, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def unseal(data: bytes, *, where: str) -> dict[str, Any]:
    """Return the facts of an encoded document after checking its seal; LostInvariantError names `where`."""
    try:
        facts = json.loads(data)
        seal = facts.pop(SEAL)
        whole = hashlib.sha256(canonical_json(facts)).hexdigest() == seal
    except (ValueError, KeyError, AttributeError, TypeError):
        whole = False
    if not whole:
        raise LostInvariantError(
            f"{where} is damaged: its contents do not match its own SHA-256. Restore it from a backup, or"
            " remove it and start the run that made it again"
        )
    return dict(facts)


def decode(kind: type[Model], data: bytes, *, where: str) -> Model:
    """Read a model back, checking the seal, then the schema version, then every field.

    Raises LostInvariantError for damage, UsageError for a schema version that this program does not know.
    """
    facts = unseal(data, where=where)
    version, known = facts.get("schema_version"), kind.model_fields.get("schema_version")
    if known is not None and version != known.default:
        raise UsageError(
            f"{where} has schema version {version!r}, this progdistill knows {known.default!r} only:"
            " upgrade progdistill to read it (nothing was changed)"
        )
    try:
        return kind.model_validate(facts)
    except ValidationError as error:
        raise LostInvariantError(f"{where} is not a valid {kind.__name__}: {error}") from error
