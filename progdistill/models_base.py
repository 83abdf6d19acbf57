"""The base class of immutable records, and ids made of content."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError


class Frozen(BaseModel):
    """A pydantic model that cannot be changed and has no other fields than it declares."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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


def first_problem(error: ValidationError) -> str:
    """The first problem that pydantic found, as `path.of.field = value: what is wrong`."""
    first = error.errors()[0]
    where, value = ".".join(map(str, first["loc"])), first.get("input")
    given = "" if isinstance(value, (dict, list, tuple)) else f" = {value!r}"
    return f"{where}{given}: {first['msg'].removeprefix('Value error, ')}"
