"""What a store of artifacts promises, and how one is opened: a local folder or `s3://bucket/prefix`."""

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict

from progdistill.errors import UsageError
from progdistill.store.digest import FileDigest
from progdistill.store.documents import decode, encode

LAYOUT_KEY: Final = "store.json"

_SEGMENT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=+-]{0,199}")


class StoredObject(NamedTuple):
    """One listed object: its key, its size in bytes, when it changed (UTC, the store's clock)."""

    key: str
    size_bytes: int
    modified_at: datetime


class Versioned(NamedTuple):
    """An object's bytes and the opaque token that `compare_and_swap` takes."""

    data: bytes
    version: str


class Store(Protocol):
    """A flat space of keys (`a/b/c`), each holding bytes, where every write is whole or absent.

    Small objects travel as bytes, files by path.

    Raises UsageError for what the user mends (permissions, full disk, missing bucket), TransientError for
    what may pass, LostInvariantError when bytes do not match a digest.
    """

    @property
    def uri(self) -> str:
        """The absolute address that opens this store again, on any machine that can reach it."""

    def read(self, key: str) -> bytes | None:
        """Return the object's bytes, None when there is none."""

    def read_versioned(self, key: str) -> Versioned | None:
        """Return the object's bytes with its version, None when there is none."""

    def write(self, key: str, data: bytes) -> None:
        """Store the object, replacing any: a reader sees the old bytes or the new, never a mixture."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store the object unless one exists; True for exactly one of any number of racing callers."""

    def compare_and_swap(self, key: str, data: bytes, version: str) -> bool:
        """Replace the object if it still has `version`; False when somebody else changed or removed it."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects whose keys start with `prefix`, in key order.

        Names that no key has (`my notes.json`) are not ours, and passed over.
        """

    def delete(self, key: str) -> None:
        """Remove the object; removing what is not there is no error."""

    def upload(self, path: Path, key_for: Callable[[str], str], *, consume: bool = False) -> FileDigest:
        """Store a file under `key_for(its digest)`; `consume` allows the file itself to be moved away."""

    def download(self, key: str, expected: FileDigest) -> Path:
        """Return a local, read-only file with the object's bytes, its digest verified first."""

    def verify(self, key: str, expected: FileDigest) -> None:
        """Raise LostInvariantError unless the object is intact in the store itself, past any local copy."""

    def scratch(self) -> Path:
        """Return a local folder from which `upload(consume=True)` is cheapest; leftovers are swept by gc."""

    def check_writable(self) -> None:
        """Raise UsageError unless objects can be written and removed here."""

    def free_bytes(self) -> int | None:
        """Return the free space in bytes, None when the store has no such limit."""

    def sweep(self, before: datetime) -> int:
        """Remove what writers that died before that time left unfinished; return how many leftovers went."""

    def now(self) -> datetime:
        """Return the time (UTC) on the clock that stamps `modified_at`: never this machine's guess."""


class StoreLayout(BaseModel):
    """The document at the root of a store: which layout its objects follow."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: Literal[1] = 1


def is_key(key: str) -> bool:
    """Whether each segment is a plain name, so that the key leads nowhere outside its store."""
    return all(_SEGMENT.fullmatch(segment) for segment in key.split("/"))


def checked_key(key: str) -> str:
    """Return the key if it is one; UsageError otherwise."""
    if is_key(key):
        return key
    raise UsageError(
        f"{key!r} cannot name an object in a store: use letters, digits and ._=+- between slashes"
    )


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
    from progdistill.store.local import LocalStore

    if isinstance(store, LocalStore):
        return store.root.is_dir()
    return next(iter(store.list("")), None) is not None


def mark_layout(store: Store) -> None:
    """Write the layout document into a store that has none yet."""
    if store.read(LAYOUT_KEY) is None:
        store.put_if_absent(LAYOUT_KEY, encode(StoreLayout()))
