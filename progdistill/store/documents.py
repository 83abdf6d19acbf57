"""JSON documents in a store: read, published once, listed."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from progdistill.errors import LostInvariantError, ProgdistillError, TransientError, UsageError
from progdistill.models_base import content_id
from progdistill.store.base import Store

SEAL: Final = "document_sha256"

Model = TypeVar("Model", bound=BaseModel)


def encode(document: BaseModel) -> bytes:
    """Encode a model as readable JSON with a seal: SHA-256 over the canonical JSON of everything else."""
    facts = document.model_dump(mode="json")
    facts[SEAL] = content_id(facts)
    return (json.dumps(facts, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def unseal(data: bytes, *, where: str) -> dict[str, Any]:
    """Return the facts of an encoded document after checking its seal; LostInvariantError names `where`."""
    try:
        facts = json.loads(data)
        seal = facts.pop(SEAL)
        whole = content_id(facts) == seal
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


_ATTEMPTS: Final = 100


def publish_record(store: Store, key: str, model: Model) -> Model:
    """Publish a record and return what the store holds: the first publisher's, whoever that was.

    The age of one that was there already starts again, so that garbage collection spares it as it spares a
    new one; a damaged one is replaced. TransientError if others write and remove it all the time.
    """
    data = encode(model)
    for _ in range(_ATTEMPTS):
        if store.put_if_absent(key, data):
            return model
        found = store.read_versioned(key)
        if found is None:
            continue  # Removed since.
        try:
            winner, kept = decode(type(model), found.data, where=f"{store.uri}/{key}"), found.data
        except LostInvariantError:
            print(f"{store.uri}/{key} is damaged: published anew", file=sys.stderr, flush=True)
            winner, kept = model, data
        if store.compare_and_swap(key, kept, found.version):
            return winner
    raise TransientError(
        f"{store.uri}/{key} was changed or removed by others {_ATTEMPTS} times meanwhile; try again"
    )


def read_record(store: Store, key: str, kind: type[Model]) -> Model | None:
    """Read a record, None when there is none. Damage is a LostInvariantError, a newer schema a UsageError."""
    data = store.read(key)
    return None if data is None else decode(kind, data, where=f"{store.uri}/{key}")


def list_records(
    store: Store, prefix: str, kind: type[Model], unreadable: list[ProgdistillError] | None = None
) -> Iterator[Model]:
    """Yield the records under a prefix in key order.

    A damaged one raises; with `unreadable` the error is appended there instead and the record skipped.
    """
    for item in store.list(prefix):
        with collect_errors(unreadable):
            record = read_record(store, item.key, kind)
            if record is not None:
                yield record


@contextmanager
def collect_errors(unreadable: list[ProgdistillError] | None) -> Iterator[None]:
    """Note damage or a newer schema in `unreadable` and go on behind the block; without a list, raise it."""
    try:
        yield
    except (LostInvariantError, UsageError) as error:
        if unreadable is None:
            raise
        unreadable.append(error)
