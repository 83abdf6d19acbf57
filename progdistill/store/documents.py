"""JSON documents in a store: read, published once, listed; and the files that they refer to."""

import json
import logging
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, TypeVar

from pydantic import AwareDatetime, Field, ValidationError

from progdistill.errors import LostInvariantError, ProgdistillError, TransientError, UsageError
from progdistill.models_base import Frozen, content_id, first_problem, parse_json
from progdistill.store.base import Store
from progdistill.store.digest import FileDigest
from progdistill.store.layout import blob_key

logger = logging.getLogger(__name__)

SEAL: Final = "document_sha256"
REFERENCES: Final = "references"

Timestamp = Annotated[AwareDatetime, Field(ge=datetime(1970, 1, 1, tzinfo=UTC))]
"""A moment with its time zone: any two can be compared, and written in any zone."""


class Record(Frozen):
    """A document of a store. Garbage collection keeps what it refers to for as long as the document stays."""

    older_schema_advice: ClassVar[str] = "use the release that wrote it, or another --store"

    def references(self) -> Iterable[str]:
        """Return the keys (`layout`) of all objects without which this document is of no use."""
        return ()


Model = TypeVar("Model", bound=Record)
Item = TypeVar("Item")
Result = TypeVar("Result")


def encode(record: Record) -> bytes:
    """Encode a record as JSON with its references and a seal: the SHA-256 of everything else."""
    facts = record.model_dump(mode="json")
    facts[REFERENCES] = sorted(set(record.references()))
    facts[SEAL] = content_id(facts)
    return (json.dumps(facts, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def unseal(data: bytes, *, where: str) -> dict[str, Any]:
    """Return the facts of an encoded record after checking its seal. One that is nested too deep counts as damaged.

    Raises:
        LostInvariantError: The document is damaged; the message names it by `where`.
    """
    facts = _intact(data)
    if facts is None:
        raise LostInvariantError(
            f"{where} is damaged: its contents do not match its own SHA-256. Restore it from a backup, or"
            " remove it and run again what made it (docs/disaster_recovery.md)"
        )
    facts.pop(REFERENCES, None)
    return facts


def declared_references(data: bytes) -> list[str] | None:
    """Return the keys that an encoded record refers to; None for a damaged one, or one that does not say."""
    references = (_intact(data) or {}).get(REFERENCES)
    declares = isinstance(references, list) and all(isinstance(key, str) for key in references)
    return references if declares else None


def _intact(data: bytes) -> dict[str, Any] | None:
    """The facts without the seal, None where they do not match it."""
    try:
        facts = parse_json(data)
        seal = facts.pop(SEAL)
        return dict(facts) if content_id(facts) == seal else None
    except (ValueError, KeyError, AttributeError, TypeError):
        return None


def decode(kind: type[Model], data: bytes, *, where: str) -> Model:
    """Decode a record, checking the seal, then the schema version, then every field.

    Args:
        kind: Class of the record.
        data: The encoded record.
        where: Name of the document for error messages.

    Raises:
        LostInvariantError: The document is damaged.
        UsageError: Another release wrote it, in another schema.
    """
    facts = unseal(data, where=where)
    found, field = facts.get("schema_version"), kind.model_fields.get("schema_version")
    if field is not None and found != field.default:
        newer = isinstance(found, int) and found > field.default
        advice = "upgrade progdistill" if newer else kind.older_schema_advice
        raise UsageError(
            f"{where}: unsupported schema version {found!r}; expected {field.default}: {advice} (nothing was changed)"
        )
    try:
        return kind.model_validate(facts)
    except ValidationError as error:
        raise LostInvariantError(
            f"{where} is not a valid {kind.__name__}: {first_problem(error)}. Restore it from a backup, or remove it"
            " (docs/disaster_recovery.md)"
        ) from error


_ATTEMPTS: Final = 100


def publish_record(store: Store, key: str, model: Model) -> Model:
    """Publish a record unless the store has it, and return what the store has: the first publisher's.

    The age of an existing record starts again, so that garbage collection treats it as a new one. A damaged
    one is replaced.

    Raises:
        TransientError: Others change or remove the record all the time.
        UsageError: The existing record has an unsupported schema version.
    """
    data = encode(model)
    for _ in range(_ATTEMPTS):
        if store.put_if_absent(key, data):
            return model
        found = store.read_versioned(key)
        if found is None:
            continue  # Removed since.
        try:
            winner, stored = decode(type(model), found.data, where=f"{store.uri}/{key}"), found.data
        except LostInvariantError:
            logger.warning("%s/%s is damaged: replaced", store.uri, key)
            winner, stored = model, data
        if store.compare_and_swap(key, stored, found.version):
            return winner
    raise TransientError(f"{store.uri}/{key} was changed or removed by others {_ATTEMPTS} times meanwhile; try again")


def read_record(store: Store, key: str, kind: type[Model]) -> Model | None:
    """Read a record, None when there is none. Raises what `decode` raises."""
    data = store.read(key)
    return None if data is None else decode(kind, data, where=f"{store.uri}/{key}")


_READERS: Final = 8
_AHEAD: Final = 50


def read_in_order(
    store: Store, read: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Callable[[], Result]]:
    """Yield, in order, a function that returns or raises what `read` does for each item.

    In a store over a network, whose answers take long, the next items are read meanwhile by threads.
    """
    if store.folder is not None:
        yield from (partial(read, item) for item in items)
        return
    with ThreadPoolExecutor(_READERS) as pool:
        ahead: deque[Future[Result]] = deque()
        for item in items:
            ahead.append(pool.submit(read, item))
            if len(ahead) == _AHEAD:
                yield ahead.popleft().result
        while ahead:
            yield ahead.popleft().result


def list_records(
    store: Store, prefix: str, kind: type[Model], unreadable: list[ProgdistillError] | None = None
) -> Iterator[Model]:
    """Yield the records under a prefix in key order.

    A damaged one raises; with `unreadable` the error is appended there instead and the record skipped.
    """
    keys = (item.key for item in store.list(prefix))
    for read in read_in_order(store, lambda key: read_record(store, key, kind), keys):
        with collect_errors(unreadable):
            record = read()
            if record is not None:
                yield record


@contextmanager
def collect_errors(into: list[ProgdistillError] | None) -> Iterator[None]:
    """Collect the error of a document that cannot be read; with None, raise it."""
    try:
        yield
    except (LostInvariantError, UsageError) as error:
        if into is None:
            raise
        into.append(error)


def require_blob(store: Store, expected: FileDigest) -> None:
    """Raise LostInvariantError unless the blob is in the store, at the right size."""
    key = blob_key(expected.sha256)
    found = next((item.size_bytes for item in store.list(key) if item.key == key), None)
    if found is None:
        raise LostInvariantError(f"{store.uri}/{key} is missing from the store (docs/disaster_recovery.md)")
    if found != expected.size_bytes:
        raise LostInvariantError(f"{store.uri}/{key} is damaged: {found:,} bytes, expected {expected.size_bytes:,}")


def upload_bytes(store: Store, data: bytes) -> FileDigest:
    """Upload a file that was made in memory, named by its digest."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data"
        path.write_bytes(data)
        return store.upload(path, blob_key)


def load_valid_record(
    store: Store, key: str, kind: type[Model], files: Callable[[Model], Iterable[FileDigest]]
) -> Model | None:
    """Read a record whose files are all in the store, at the right size; None if it must be made.

    A record that is damaged or lacks a file is deleted, so that it can be made again.
    """
    try:
        record = read_record(store, key, kind)
        if record is not None:
            for file in files(record):
                require_blob(store, file)
    except LostInvariantError as error:
        logger.warning("recomputing %s: %s", key, error)
        store.delete(key)
        return None
    return record
