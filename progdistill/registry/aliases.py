"""Names that people give to checkpoints, moved by compare-and-swap and keeping their history."""

import re
import secrets
from collections.abc import Iterable, Iterator
from typing import Final, Literal

from pydantic import Field

from progdistill.errors import ProgdistillError, TransientError, UsageError
from progdistill.models_base import Frozen
from progdistill.store.base import Store
from progdistill.store.digest import Sha256
from progdistill.store.documents import Record, Timestamp, decode, encode, list_records, read_record
from progdistill.store.layout import ALIASES, alias_key, checkpoint_key
from progdistill.store.open import mark_layout

ALIAS_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)?")
_HEX: Final = re.compile(r"[0-9a-f]{4,64}")
_ATTEMPTS: Final = 100


class AliasMove(Frozen):
    """One move of an alias: to a checkpoint (None: removed), when, and by whom (`user@host`)."""

    checkpoint_id: Sha256 | None
    moved_at: Timestamp
    moved_by: str


class Alias(Record):
    """A name and every checkpoint it pointed to, oldest first."""

    schema_version: Literal[1] = 1
    name: str
    history: tuple[AliasMove, ...] = Field(min_length=1)

    @property
    def checkpoint_id(self) -> str | None:
        """The checkpoint that the alias points to; None after it was removed."""
        return self.history[-1].checkpoint_id

    def references(self) -> Iterable[str]:
        """See Record.references. The history does not count."""
        return () if self.checkpoint_id is None else (checkpoint_key(self.checkpoint_id),)


def check_alias_name(name: str) -> None:
    """Raise UsageError for a name that could be taken for an id or for `Flow/run/steps`."""
    if not ALIAS_NAME.fullmatch(name) or _HEX.fullmatch(name):
        raise UsageError(
            f"alias {name!r}: use a letter, then letters, digits and ._- with at most one slash"
            " (`best`, `cifar10/4-step`), and nothing that reads as a checkpoint id"
        )


def read_alias(store: Store, name: str) -> Alias | None:
    """Read an alias with its history, None when the name was never used."""
    return read_record(store, alias_key(name), Alias)


def list_aliases(store: Store, unreadable: list[ProgdistillError] | None = None) -> Iterator[Alias]:
    """Yield all aliases by name, removed ones included. One that cannot be read raises, or goes to `unreadable`."""
    return list_records(store, ALIASES, Alias, unreadable)


def aliases_by_checkpoint(store: Store, unreadable: list[ProgdistillError] | None = None) -> dict[str, list[str]]:
    """Return the current aliases of each checkpoint id that has any; `unreadable` as for `list_aliases`."""
    names: dict[str, list[str]] = {}
    for alias in list_aliases(store, unreadable):
        if alias.checkpoint_id is not None:
            names.setdefault(alias.checkpoint_id, []).append(alias.name)
    return names


def move_alias(store: Store, name: str, checkpoint_id: str | None, moved_by: str) -> Alias:
    """Point an alias at a checkpoint, appending to its history.

    Concurrent moves all end up in the history, each once: a move whose reply was lost is found there and not repeated.

    Args:
        store: Where the alias is.
        name: The alias; see `check_alias_name`.
        checkpoint_id: Full id of the checkpoint; None removes the alias.
        moved_by: `user@host`, for the history.

    Raises:
        UsageError: The name is not valid.
        TransientError: Others keep moving the alias.
    """
    check_alias_name(name)
    mark_layout(store)
    key = alias_key(name)
    # A store's clock may count whole seconds: the fraction distinguishes this move from others.
    moved_at = store.now().replace(microsecond=secrets.randbelow(1_000_000))
    move = AliasMove(checkpoint_id=checkpoint_id, moved_at=moved_at, moved_by=moved_by)
    for _ in range(_ATTEMPTS):
        found = store.read_versioned(key)
        if found is None:
            alias = Alias(name=name, history=(move,))
            moved = store.put_if_absent(key, encode(alias))
        else:
            before = decode(Alias, found.data, where=f"{store.uri}/{key}")
            if move in before.history:
                return before
            alias = Alias(name=name, history=(*before.history, move))
            moved = store.compare_and_swap(key, encode(alias), found.version)
        if moved:
            return alias
    raise TransientError(f"alias {name!r}: {_ATTEMPTS} attempts lost to concurrent moves; try again")
