"""The local folder where a dataset is prepared, by one process at a time; a crash loses little work."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, JsonValue

from progdistill.errors import UsageError
from progdistill.models_base import Frozen
from progdistill.store.documents import Record, encode, read_record
from progdistill.store.local import LocalStore

STATE_KEY: Final = "preparing.json"

SPARE_BYTES: Final = 2**26
"""Disk space required beyond the pixels: labels, headers, the manifest."""


class SplitState(Frozen):
    """How far one split got."""

    done: int = 0
    """Number of images, in the source's order, that are stored or known to be unreadable."""
    unreadable: dict[int, str] = Field(default={})
    """Number and name of each image that could not be read."""
    gaps_filled: bool = False


class PreparationState(Record):
    """How far a preparation got, and of which source with which options (`identity`)."""

    schema_version: Literal[1] = 1
    identity: dict[str, JsonValue]
    splits: dict[str, SplitState] = Field(default={})

    def split(self, name: str) -> SplitState:
        """Return the state of a split, initially empty."""
        return self.splits.get(name, SplitState())

    def with_split(self, name: str, state: SplitState) -> "PreparationState":
        """Return a copy with one split's state replaced."""
        return self.model_copy(update={"splits": {**self.splits, name: state}})


class StagingFolder:
    """Unfinished shards, and the record of how far they got."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = LocalStore(path)

    def resume(self, identity: dict[str, JsonValue]) -> PreparationState:
        """Return the recorded state. Without one, empty the folder.

        Raises:
            UsageError: The record is of another source or other options.
        """
        state = read_record(self.store, STATE_KEY, PreparationState)
        if state is None:
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True)
            return PreparationState(identity=identity)
        if state.identity != identity:
            raise UsageError(
                f"{self.path} holds an interrupted preparation of another source or with other options:"
                " repeat that command to resume it, or remove the folder"
            )
        return state

    def require_space(self, size_bytes: int) -> None:
        """Raise UsageError unless the disk has room for a dataset of this size, including what is here."""
        needed = size_bytes + SPARE_BYTES - sum(path.stat().st_size for path in self.path.iterdir())
        free = shutil.disk_usage(self.path).free
        if needed > free:
            raise UsageError(
                f"preparing needs {needed / 1e9:,.2f} GB more in {self.path.parent}, but only"
                f" {free / 1e9:,.2f} GB are free: make room, or choose another folder with --out or"
                " PROGDISTILL_DATA"
            )

    def save(self, state: PreparationState) -> None:
        """Record how far the preparation got, after flushing the shards to disk."""
        os.sync()
        self.store.write(STATE_KEY, encode(state))

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
