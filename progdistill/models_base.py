"""The base class of immutable records, and ids made of content."""

import hashlib
import json
import tomllib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError


class Frozen(BaseModel):
    """A pydantic model that cannot be changed and has no other fields than it declares."""

    model_config = ConfigDict(frozen=True, extra="forbid")


_DEEPEST = 100
_LARGEST = 2**63 - 1


def check_plain(value: object) -> None:
    """Raise ValueError for foreign values (JSON, TOML) that are nested too deeply, or integers beyond 64 bits."""
    level = [value]
    for _ in range(_DEEPEST):
        for item in level:
            if isinstance(item, int) and not -_LARGEST <= item <= _LARGEST:
                raise ValueError("it has an integer beyond 64 bits")
        inner = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list)))
        level = [item for items in inner for item in items]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {_DEEPEST} levels")


def parse_json(text: str | bytes) -> Any:
    """Parse foreign JSON; ValueError where it is none, or what `check_plain` refuses."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {_DEEPEST} levels") from None
    check_plain(value)
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """Parse foreign TOML; ValueError where it is none, or what `check_plain` refuses."""
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {_DEEPEST} levels") from None
    check_plain(table)
    return table


def leaves(value: JsonValue, path: str = "") -> Iterator[tuple[str, JsonValue]]:
    """Yield every leaf of nested JSON objects with its dotted path; lists and empty objects are leaves."""
    if not isinstance(value, dict) or not value:
        yield path, value
    else:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)


def canonical_json(facts: Any) -> bytes:
    """Encode JSON values so that equal facts give equal bytes (sorted keys, no spaces, no NaN)."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def content_id(facts: Any) -> str:
    """SHA-256, in hexadecimal, of the canonical JSON of a model or of plain facts."""
    if isinstance(facts, BaseModel):
        facts = facts.model_dump(mode="json")
    return hashlib.sha256(canonical_json(facts)).hexdigest()


TAG = "kind:"
"""With this begin the tags of our unions, which stand in pydantic's paths but in no file."""


_NO_LIST = ("list_type", "tuple_type", "set_type", "frozen_set_type")


def first_problem(error: ValidationError) -> str:
    """The first problem that pydantic found, as `path.of.field = value: what is wrong`.

    Values of environment variables are left out: they may be secrets.
    """
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if not str(part).startswith(TAG)]
    where, value = ".".join(path), first.get("input")
    hidden = isinstance(value, (dict, list, tuple)) or not {"env", "environment"}.isdisjoint(path)
    given = "" if hidden else f" = {value!r:.100}"
    advice = f"; write {_in_brackets(value)}" if first["type"] in _NO_LIST and not hidden else ""
    return f"{where}{given}: {first['msg'].removeprefix('Value error, ')}{advice}"


def _in_brackets(value: object) -> str:
    """The JSON list that somebody meant who wrote `8`, `8,16` or `name`."""
    try:
        json.loads(f"[{value}]")
    except ValueError:
        return json.dumps([value])
    return f"[{value}]"
