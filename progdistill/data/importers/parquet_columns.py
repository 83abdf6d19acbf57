"""Which columns of Parquet files hold the images and their classes, by the files' schemas alone.

Format: see `parquet.py`. Metadata that is no such JSON is as good as none.
"""

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
from pydantic import BaseModel, Field

from progdistill.errors import UsageError

_LABEL_NAMES: Final = ("label", "labels", "fine_label", "class")


class Columns(NamedTuple):
    """Names of columns (None: no classes), and of classes (empty: the files do not tell)."""

    image: str
    label: str | None
    class_names: tuple[str, ...]


class _Feature(BaseModel):
    kind: str = Field("", alias="_type")
    names: Any = None


class _Info(BaseModel):
    features: dict[str, Any] = {}


class _Metadata(BaseModel):
    info: _Info = _Info()


def find_columns(path: Path, schema: pa.Schema) -> Columns:
    """The columns of a file. Raises UsageError unless exactly one has images."""
    features = _features(schema)
    images = [field.name for field in schema if _is_image(field, features)]
    if len(images) != 1:
        raise UsageError(
            f"{path} has {len(images)} image columns (structs of bytes and path) among"
            f" {', '.join(schema.names)}: keep exactly one"
        )
    classes = [name for name, feature in features.items() if feature.kind == "ClassLabel"]
    label = next((name for name in (*classes, *_LABEL_NAMES) if name in schema.names), None)
    return Columns(images[0], label, _class_names(features, label))


def check_columns(path: Path, schema: pa.Schema, columns: Columns, first: Path) -> None:
    """Raise UsageError unless a file has the columns that were found in the file `first`."""
    for name in filter(None, (columns.image, columns.label)):
        if name not in schema.names:
            raise UsageError(
                f"{path} has no column {name}, which {first} has: add it, or move the file away to"
                " prepare the others"
            )
        if schema.names.count(name) > 1:
            raise UsageError(f"{path} has {schema.names.count(name)} columns {name}: keep exactly one")
    kind = schema.field(columns.image).type
    if not (_is_bytes(kind) or _has_bytes(kind)):
        raise UsageError(
            f"{path}: column {columns.image} holds {kind}, not images: store encoded files, as bytes or as"
            " structs of bytes and path"
        )
    if columns.label is None:
        return
    if not pa.types.is_integer(kind := schema.field(columns.label).type):
        raise UsageError(
            f"{path}: column {columns.label} holds {kind}, not class numbers: store 0, 1, 2, …, or move the"
            " file away to prepare the others"
        )
    names = _class_names(_features(schema), columns.label)
    for number, (found, expected) in enumerate(zip(names, columns.class_names, strict=False)):
        if found != expected:
            raise UsageError(
                f"{path}: column {columns.label} has {found!r} as class {number}, which is {expected!r} in"
                f" {first}: number the classes alike in all files"
            )


def _features(schema: pa.Schema) -> dict[str, _Feature]:
    metadata = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        found = _Metadata.model_validate(json.loads(metadata)).info.features
    except (ValueError, RecursionError):
        return {}
    features = {}
    for name, feature in found.items():
        try:
            features[name] = _Feature.model_validate(feature)
        except ValueError:  # Columns of columns, which hold neither images nor classes.
            continue
    return features


def _class_names(features: dict[str, _Feature], label: str | None) -> tuple[str, ...]:
    names = features[label].names if label in features else None
    return tuple(names) if isinstance(names, list) and all(map(_is_text, names)) else ()


def _is_text(name: Any) -> bool:
    """Whether a name can be stored: JSON can have halves of characters too."""
    return isinstance(name, str) and name.encode(errors="replace").decode() == name


def _is_image(field: pa.Field, features: dict[str, _Feature]) -> bool:
    return _has_bytes(field.type) or (field.name in features and features[field.name].kind == "Image")


def _has_bytes(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    return any(kind.field(index).name == "bytes" for index in range(kind.num_fields))


def _is_bytes(kind: pa.DataType) -> bool:
    return kind in (pa.binary(), pa.large_binary())
