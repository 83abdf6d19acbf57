"""What a store keeps of evaluations counts for as long as it keeps the files, too. No torch."""

import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

from progdistill.errors import LostInvariantError
from progdistill.registry.checkpoint import require_blob
from progdistill.store.base import Store
from progdistill.store.digest import FileDigest
from progdistill.store.documents import Record, read_record

Model = TypeVar("Model", bound=Record)


def load_valid_record(
    store: Store, key: str, kind: type[Model], files: Callable[[Model], Iterable[FileDigest]]
) -> Model | None:
    """The record under a key; None where there is none with all its files, and it is to be made.

    One that is damaged, or lacks a file, is removed: found again, it would keep the work from mending what
    is lost. Of files only the size is looked at.
    """
    try:
        found = read_record(store, key, kind)
        if found is not None:
            for file in files(found):
                require_blob(store, file)
    except LostInvariantError as error:
        print(f"{key} is made again: {error}", file=sys.stderr, flush=True)
        store.delete(key)
        return None
    return found
