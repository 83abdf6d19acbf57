"""Looks for damage in a store: every sealed document, and every file that is named by its digest."""

from collections.abc import Iterator
from typing import Final

from progdistill.artifacts.digest import FileDigest
from progdistill.artifacts.documents import unseal
from progdistill.artifacts.store import Store, StoredObject
from progdistill.errors import LostInvariantError, ProgdistillError, UsageError

BLOBS: Final = "blobs/sha256/"

_DOCUMENTS: Final = (
    "aliases/",
    "checkpoints/",
    "evaluation_neighbours/",
    "evaluation_shards/",
    "evaluations/",
    "evaluators/",
    "jobs/",
    "runs/",
    "snapshots/",
)
"""Where each .json is a sealed document: a bucket may hold other things beside them."""


def damaged_objects(store: Store, prefix: str, known: set[str]) -> Iterator[tuple[str, ProgdistillError]]:
    """Yield the damaged objects under a prefix with what is wrong, past those whose keys are in `known`."""
    for item in store.list(prefix):
        if item.key not in known:
            try:
                _verify(store, item)
            except (LostInvariantError, UsageError) as error:
                yield item.key, error


def _verify(store: Store, item: StoredObject) -> None:
    if item.key.startswith(BLOBS):
        store.verify(item.key, FileDigest(item.key.rpartition("/")[2], item.size_bytes))
    elif item.key.startswith(_DOCUMENTS) and item.key.endswith(".json"):
        data = store.read(item.key)
        if data is not None:  # Removed since it was listed.
            unseal(data, where=f"{store.uri}/{item.key}")
