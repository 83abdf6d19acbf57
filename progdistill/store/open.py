"""How a store is opened: a local folder, `s3://bucket/prefix` or `gs://bucket/prefix`."""

from pathlib import Path
from typing import Literal

from progdistill.errors import UsageError
from progdistill.store.base import Store
from progdistill.store.documents import Record, encode, read_record
from progdistill.store.layout import LAYOUT_KEY


class StoreLayout(Record):
    """The document at the root of a store: which layout its objects follow."""

    schema_version: Literal[2] = 2


def open_store(uri: str, *, must_exist: bool = False) -> Store:
    """Open a store; nothing is created before the first write.

    Args:
        uri: A local path, `file://…`, `s3://bucket/prefix` or `gs://bucket/prefix`.
        must_exist: Whether a place without a folder, or without any object in a bucket, is refused.

    Raises:
        UsageError: The scheme is unknown, the store has another layout, or it does not exist.
    """
    try:
        uri.encode()
    except UnicodeEncodeError:
        raise UsageError(f"store {uri!r} is not UTF-8: choose another name") from None
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        from progdistill.store.local import LocalStore

        store: Store = LocalStore(Path(rest if separator else uri))
    elif scheme == "s3":
        from progdistill.store.s3 import S3Store

        store = S3Store(uri)
    elif scheme == "gs":
        try:
            from progdistill.store.gcs import GcsStore
        except ModuleNotFoundError as error:
            raise UsageError(f"store {uri} needs {error.name}: pip install 'progdistill[gcs]'") from error
        store = GcsStore(uri)
    else:
        places = "a folder, file://…, s3://bucket/prefix or gs://bucket/prefix"
        raise UsageError(f"store {uri!r}: unknown scheme {scheme!r}; give {places}")
    layout = read_record(store, LAYOUT_KEY, StoreLayout)
    if layout is None and must_exist and next(iter(store.list("")), None) is None:
        raise UsageError(f"no store at {store.uri}; check --store, PROGDISTILL_STORE or progdistill.toml")
    return store


def mark_layout(store: Store) -> None:
    """Write the layout document into a new store, after proving that it can be one."""
    if store.read(LAYOUT_KEY) is None:
        store.check_writable()
        store.put_if_absent(LAYOUT_KEY, encode(StoreLayout()))
