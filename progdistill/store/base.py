"""What a store of artifacts promises."""

import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from progdistill.errors import UsageError
from progdistill.store.digest import FileDigest

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
    """A flat space of keys (`a/b/c`), each holding bytes. Every write is whole or absent.

    Small objects are passed as bytes, files by path.

    Raises:
        UsageError: By any method: permissions, a full disk, a missing bucket, or a key that is not valid.
        TransientError: By any method: a fault that may pass, after it was retried.
        LostInvariantError: By `download` and `verify`: the object is missing or damaged.
    """

    @property
    def uri(self) -> str:
        """The absolute address that opens this store again, on any machine that can reach it."""

    @property
    def folder(self) -> Path | None:
        """The folder in which each object is a file named by its key; None where objects are not files."""

    @property
    def reuse_period(self) -> timedelta:
        """For how long after an upload a file is not uploaded again; garbage collection waits longer."""

    def read(self, key: str) -> bytes | None:
        """Return the object's bytes, None when there is none."""

    def read_versioned(self, key: str) -> Versioned | None:
        """Return the object's bytes with its version, None when there is none."""

    def write(self, key: str, data: bytes) -> None:
        """Store the object, replacing any: a reader sees the old bytes or the new, never a mixture."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store the object unless it exists. Returns True for exactly one of any number of racing callers."""

    def compare_and_swap(self, key: str, data: bytes, version: str) -> bool:
        """Replace the object if it still has `version`. Returns False if others changed or removed it."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects whose keys start with `prefix`, in key order.

        Names that cannot be keys (`my notes.json`) are skipped: they are not ours.
        """

    def delete(self, key: str) -> None:
        """Remove the object if it exists."""

    def upload(self, path: Path, key_for: Callable[[str], str], *, consume: bool = False) -> FileDigest:
        """Store a file under a key made from its digest.

        Args:
            path: The file.
            key_for: From the file's digest (hex) to the key. An existing object is replaced.
            consume: Whether the file may be moved away. It is left alone if it cannot be stored.

        Returns:
            The digest and size of what was stored.
        """

    def download(self, key: str, expected: FileDigest) -> Path:
        """Return a local, read-only file with the object's bytes, whose digest has been verified."""

    def verify(self, key: str, expected: FileDigest) -> None:
        """Raise LostInvariantError unless the object is intact in the store itself, past any local copy."""

    def scratch(self) -> Path:
        """Return a local folder from which `upload(consume=True)` is cheapest; gc sweeps leftovers."""

    def check_writable(self) -> None:
        """Raise UsageError unless objects can be written and removed here, by the rules that a store rests on."""

    def free_bytes(self) -> int | None:
        """Return the free space in bytes, None when the store has no such limit."""

    def sweep(self, before: datetime) -> int:
        """Remove what writers that died before that time left unfinished; return how many leftovers went."""

    def now(self) -> datetime:
        """Return the time (UTC) on the clock that stamps `modified_at`, which is not this machine's."""


def is_key(key: str) -> bool:
    """Whether each segment is a plain name, so that the key leads nowhere outside its store."""
    return all(_SEGMENT.fullmatch(segment) for segment in key.split("/"))


def checked_key(key: str) -> str:
    """Return the key if it is valid; raise UsageError otherwise."""
    if is_key(key):
        return key
    raise UsageError(f"{key!r} cannot name an object in a store: use letters, digits and ._=+- between slashes")
