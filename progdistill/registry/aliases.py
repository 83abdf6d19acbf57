"""Names that people give to checkpoints, moved by compare-and-swap and keeping their history."""

import re
import secrets
from collections.abc import Iterator
from datetime import datetime
from typing import Final, Literal

from pydantic import Field

from progdistill.errors import TransientError, UsageError
from progdistill.models_base import Frozen
from progdistill.store.base import Store
from progdistill.store.digest import Sha256
from progdistill.store.documents import decode, encode, list_records
from progdistill.store.open import mark_layout

FOLDER: Final = "aliases/"

ALIAS_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)?")
_HEX: Final = re.compile(r"[0-9a-f]{4,64}")
_ATTEMPTS: Final = 100


class AliasMove(Frozen):
    """One move of an alias: to which checkpoint (None: removed), when, and by whom (`user@host`)."""

    checkpoint_id: Sha256 | None
    moved_at: datetime
    moved_by: str


class Alias(Frozen):
    """A name and everything it ever meant, oldest first."""

    schema_version: Literal[1] = 1
    name: str
    history: tuple[AliasMove, ...] = Field(min_length=1)

    @property
    def checkpoint_id(self) -> str | None:
        """What the name means now; None after it was removed."""
        return self.history[-1].checkpoint_id


def check_alias_name(name: str) -> None:
    """Raise UsageError for a name that could be taken for an id or for `Flow/run/steps`."""
    if not ALIAS_NAME.fullmatch(name) or _HEX.fullmatch(name):
        raise UsageError(
            f"alias {name!r}: use a letter, then letters, digits and ._- with at most one slash"
            " (`best`, `cifar10/4-step`), and nothing that reads as a checkpoint id"
        )


def read_alias(store: Store, name: str) -> Alias | None:
    """Read an alias with its history, None when the name was never used."""
    data = store.read(_key(name))
    return None if data is None else decode(Alias, data, where=f"{store.uri}/{_key(name)}")


def list_aliases(store: Store) -> Iterator[Alias]:
    """Yield all aliases by name, also removed ones."""
    return list_records(store, FOLDER, Alias)


def move_alias(store: Store, name: str, checkpoint_id: str | None, moved_by: str) -> Alias:
    """Point an alias at a checkpoint (None removes it), appending to its history.

    Of several movers at once every move ends up in the history, once: where the reply to a move was lost and
    others have moved the alias since, it is found there and not made again. TransientError if the store stays
    too busy.
    """
    check_alias_name(name)
    mark_layout(store)
    # A store's clock may count whole seconds: the fraction tells this move from others.
    moved_at = store.now().replace(microsecond=secrets.randbelow(1_000_000))
    move = AliasMove(checkpoint_id=checkpoint_id, moved_at=moved_at, moved_by=moved_by)
    for _ in range(_ATTEMPTS):
        found = store.read_versioned(_key(name))
        if found is None:
            alias = Alias(name=name, history=(move,))
            moved = store.put_if_absent(_key(name), encode(alias))
        else:
            before = decode(Alias, found.data, where=f"{store.uri}/{_key(name)}")
            if move in before.history:
                return before
            alias = Alias(name=name, history=(*before.history, move))
            moved = store.compare_and_swap(_key(name), encode(alias), found.version)
        if moved:
            return alias
    raise TransientError(f"alias {name!r} was moved by others {_ATTEMPTS} times meanwhile; try again")


def _key(name: str) -> str:
    return f"{FOLDER}{name}.json"
