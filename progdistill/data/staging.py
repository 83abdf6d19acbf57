"""The local folder where a dataset is prepared, by one process at a time, and goes on after a crash."""

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
from progdistill.store.documents import Record, decode, encode
from progdistill.store.local import LocalStore

STATE_KEY: Final = "preparing.json"

SPARE_BYTES: Final = 2**26
"""Disk space asked for beyond the pixels: labels, headers, the manifest."""


class SplitState(Frozen):
    """How far one split got."""

    done: int = 0
    """Images of the source, in its order, that are stored or known to be unreadable."""
    unreadable: dict[int, str] = Field(default={})
    """Number and name of each image that could not be read."""
    gaps_filled: bool = False


class PreparationState(Record):
    """How far a preparation got, and of what: it goes on only from the same source with the same options."""

    schema_version: Literal[1] = 1
    identity: dict[str, JsonValue]
    splits: dict[str, SplitState] = Field(default={})

    def split(self, name: str) -> SplitState:
        """The state of a split, fresh if it was never begun."""
        return self.splits.get(name, SplitState())

    def with_split(self, name: str, state: SplitState) -> "PreparationState":
        """The same with one split's state replaced."""
        return self.model_copy(update={"splits": {**self.splits, name: state}})


class StagingFolder:
    """Shards in the making and the mark of how far they got."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = LocalStore(path)

    def resume(self, identity: dict[str, JsonValue]) -> PreparationState:
        """The last mark; before the first one the folder is emptied.

        Raises UsageError when the mark is of another source or other options.
        """
        data = self.store.read(STATE_KEY)
        if data is None:
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True)
            return PreparationState(identity=identity)
        state = decode(PreparationState, data, where=str(self.path / STATE_KEY))
        if state.identity != identity:
            raise UsageError(
                f"{self.path} holds an interrupted preparation of another source or with other options:"
                " repeat that command to go on with it, or remove the folder"
            )
        return state

    def require_space(self, size_bytes: int) -> None:
        """Raise UsageError unless the disk has room for a dataset of this size, less what is here already."""
        needed = size_bytes + SPARE_BYTES - sum(path.stat().st_size for path in self.path.iterdir())
        free = shutil.disk_usage(self.path).free
        if needed > free:
            raise UsageError(
                f"preparing needs {needed / 1e9:,.2f} GB more in {self.path.parent}, free are"
                f" {free / 1e9:,.2f} GB: make room, or choose another place with --out or PROGDISTILL_DATA"
            )

    def mark(self, state: PreparationState) -> None:
        """Record how far the preparation got, after everything before it has reached the disk."""
        os.sync()
        self.store.write(STATE_KEY, encode(state))

    def unmark(self) -> None:
        """Remove the mark: what remains is the dataset."""
        (self.path / STATE_KEY).unlink(missing_ok=True)
        shutil.rmtree(self.store.scratch())


@contextmanager
def exclusively(lock: Path) -> Iterator[None]:
    """Hold a lock file, waiting for the process that holds it; the file goes away at the end."""
    while True:
        with open(lock, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is(lock, file.fileno()):
                try:
                    yield
                finally:
                    lock.unlink()
                return


def _is(path: Path, descriptor: int) -> bool:
    """Whether the path still leads to the open file: its last holder has removed it otherwise."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
