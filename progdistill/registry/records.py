"""Records that refer to files, and files made in memory for them."""

import logging
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from progdistill.errors import LostInvariantError
from progdistill.registry.checkpoint import require_blob
from progdistill.store.base import Store
from progdistill.store.digest import FileDigest
from progdistill.store.documents import Record, read_record
from progdistill.store.layout import blob_key

logger = logging.getLogger(__name__)
Model = TypeVar("Model", bound=Record)


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
