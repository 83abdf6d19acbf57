"""How a store is opened: a local folder or `s3://bucket/prefix`."""

from pathlib import Path
from typing import Final, Literal

from progdistill.errors import UsageError
from progdistill.models_base import Frozen
from progdistill.store.base import Store
from progdistill.store.documents import decode, encode

LAYOUT_KEY: Final = "store.json"


class StoreLayout(Frozen):
    """The document at the root of a store: which layout its objects follow."""

    schema_version: Literal[1] = 1


def open_store(uri: str, *, must_exist: bool = False) -> Store:
    """Open the store at a local path, `file://` or `s3://bucket/prefix`; nothing is created before a write.

    Raises UsageError for another scheme, a store whose layout this version does not know, or with
    `must_exist` where there is neither a folder nor any object: a mistyped address.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        from progdistill.store.local import LocalStore

        store: Store = LocalStore(Path(rest if separator else uri))
    elif scheme == "s3":
        from progdistill.store.s3 import S3Store

        store = S3Store.at(uri)
    else:
        raise UsageError(
            f"store {uri!r}: unknown scheme {scheme!r}; give a folder, file://… or s3://bucket/prefix"
        )
    layout = store.read(LAYOUT_KEY)
    if layout is not None:
        decode(StoreLayout, layout, where=f"{store.uri}/{LAYOUT_KEY}")
    elif must_exist and not _is_there(store):
        raise UsageError(f"no store at {store.uri}; mend --store, PROGDISTILL_STORE or progdistill.toml")
    return store


def _is_there(store: Store) -> bool:
    """Whether there is a folder, or in a bucket any object: a store that is in use has either."""
    return next(iter(store.list("")), None) is not None


def mark_layout(store: Store) -> None:
    """Write the layout document into a store that has none yet."""
    if store.read(LAYOUT_KEY) is None:
        store.put_if_absent(LAYOUT_KEY, encode(StoreLayout()))
