"""The local folder where a dataset is prepared, by one process at a time; a crash loses little work."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from pydantic import JsonValue

from progdistill.errors import UsageError
from progdistill.models_base import Frozen
from progdistill.progress import readable_bytes
from progdistill.store.documents import Record, encode, read_record
from progdistill.store.local import LocalStore

STATE_KEY: Final = "preparing.json"

SPARE_BYTES: Final = 2**26
"""Disk space required beyond the pixels: labels, headers, the manifest."""


class SplitState(Frozen):
    """How far one split got."""

    done: int = 0
    """Number of images, in the source's order, that are stored or known to be unreadable."""
    unreadable: dict[int, str] = {}
    """Number and name of each image that could not be read."""
    gaps_filled: bool = False


class PreparationState(Record):
    """How far a preparation got, and of which source with which options (`identity`)."""

    schema_version: Literal[1] = 1
    identity: dict[str, JsonValue]
    splits: dict[str, SplitState] = {}


class StagingFolder:
    """Unfinished shards, and the record of how far each split got."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = LocalStore(path)
        self.splits: dict[str, SplitState] = {}

    def resume(self, identity: dict[str, JsonValue]) -> None:
        """Read the record; without one, empty the folder. Raises UsageError for another source or other options."""
        self._identity = identity
        state = read_record(self.store, STATE_KEY, PreparationState)
        if state is None:
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True)
        elif state.identity != identity:
            raise UsageError(
                f"{self.path} holds an interrupted preparation of another source or with other options:"
                " repeat that command to resume it, or remove the folder"
            )
        else:
            self.splits = dict(state.splits)

    def require_space(self, size_bytes: int) -> None:
        """Raise UsageError unless the disk has room for a dataset of this size, including what is here."""
        needed = size_bytes + SPARE_BYTES - sum(path.stat().st_size for path in self.path.iterdir())
        free = shutil.disk_usage(self.path).free
        if needed > free:
            raise UsageError(
                f"preparing needs {readable_bytes(needed)} more in {self.path.parent}, where {readable_bytes(free)} are"
                " free: make room, or choose another folder with --out or PROGDISTILL_DATA"
            )

    def save(self, split: str, state: SplitState) -> None:
        """Record how far a split got, after flushing the shards to disk."""
        self.splits[split] = state
        os.sync()
        self.store.write(STATE_KEY, encode(PreparationState(identity=self._identity, splits=self.splits)))

    def finish(self) -> None:
        """Remove the record: what remains is the dataset."""
        (self.path / STATE_KEY).unlink(missing_ok=True)
        shutil.rmtree(self.store.scratch())


@contextmanager
def exclusively(lock: Path) -> Iterator[None]:
    """Hold a lock file, waiting while another process holds it. The file is removed at the end."""
    while True:
        with open(lock, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_same_file(lock, file.fileno()):
                try:
                    yield
                finally:
                    lock.unlink()
                return


def _is_same_file(path: Path, descriptor: int) -> bool:
    """Whether the path still names the open file. If not, its last holder has removed it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
