"""Proves what the rules of a store rest on, with an object that is written, read, listed and removed."""

import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from progdistill.errors import ProgdistillError, UsageError
from progdistill.store.base import Store
from progdistill.store.layout import probe_key

ADVICE: Final = "a store needs that (docs/artifacts.md): choose another --store"


def prove(store: Store) -> None:
    """Prove that the store decides races, and shows at once what was written and removed.

    Raises:
        UsageError: It cannot be written, or lacks one of these; all that it lacks is named.
    """
    key = probe_key(uuid.uuid4().hex)
    try:
        lacking = list(_lacking(store, key))
    except ProgdistillError:
        with suppress(ProgdistillError):
            store.delete(key)
        raise
    store.delete(key)
    if not lacking and (store.read(key) is not None or any(store.list(key))):
        lacking = ["removal at once: a removed object is still shown"]
    if lacking:
        raise UsageError(f"{store.uri} lacks {'; '.join(lacking)}: {ADVICE}")


def _lacking(store: Store, key: str) -> Iterator[str]:
    if not store.put_if_absent(key, b"first"):
        yield "writing: a new object is said to exist already"
        return
    found = store.read_versioned(key)
    if found is None or found.data != b"first":
        yield "reading at once what was written"
        return
    if store.put_if_absent(key, b"second") or store.read(key) != b"first":
        yield "conditional writes (If-None-Match: *): an object that exists was replaced"
        return
    if not store.compare_and_swap(key, b"third!", found.version):
        yield "conditional writes (If-Match): an unchanged object could not be replaced"
    elif store.compare_and_swap(key, b"fourth", found.version):
        yield "conditional writes (If-Match): an object that others changed was replaced"
    if [(item.key, item.size_bytes) for item in store.list(key)] not in ([(key, 5)], [(key, 6)]):
        yield "listing at once what was written"
