"""Immutable facts in a store: each is published once, under a key that says what it is about."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import BaseModel

from progdistill.artifacts.documents import decode, encode, unseal
from progdistill.artifacts.store import Store
from progdistill.errors import LostInvariantError, ProgdistillError, UsageError

Model = TypeVar("Model", bound=BaseModel)


def publish_record(store: Store, key: str, model: Model) -> Model:
    """Publish a record and return what the store holds: the first publisher's, whoever that was."""
    if store.put_if_absent(key, encode(model)):
        return model
    winner = read_record(store, key, type(model))
    if winner is None:
        raise LostInvariantError(f"{store.uri}/{key} was removed while it was published: publish it again")
    return winner


def read_record(store: Store, key: str, kind: type[Model]) -> Model | None:
    """Read a record, None when there is none. Damage is a LostInvariantError, a newer schema a UsageError."""
    data = store.read(key)
    return None if data is None else decode(kind, data, where=f"{store.uri}/{key}")


def list_records(store: Store, prefix: str, kind: type[Model]) -> Iterator[Model]:
    """Yield the records under a prefix in key order."""
    for item in store.list(prefix):
        record = read_record(store, item.key, kind)
        if record is not None:
            yield record


def list_facts(
    store: Store, prefix: str, unreadable: list[ProgdistillError] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the records under a prefix as JSON facts, for readers that show records of any kind.

    A damaged one is raised, or with `unreadable` noted there and passed over.
    """
    for item in store.list(prefix):
        data = store.read(item.key)
        if data is not None:
            with noting(unreadable):
                yield unseal(data, where=f"{store.uri}/{item.key}")


@contextmanager
def noting(unreadable: list[ProgdistillError] | None) -> Iterator[None]:
    """Note damage or a newer schema in `unreadable` and go on behind the block; without a list, raise it."""
    try:
        yield
    except (LostInvariantError, UsageError) as error:
        if unreadable is None:
            raise
        unreadable.append(error)
