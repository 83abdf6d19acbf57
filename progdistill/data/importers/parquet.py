"""Parquet files as the Hugging Face library `datasets` lays them out.

Format: https://huggingface.co/docs/datasets/image_dataset and the `Image` and `ClassLabel` features: an image
is a struct of `bytes` (an encoded file) and `path`; a class is an integer. The schema's metadata has, under
`huggingface`, JSON whose info.features name each column's `_type` and the class names. Files are called
`<split>-00000-of-00005.parquet`, or lie in a folder called after their split.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from pydantic import BaseModel, Field

from progdistill.data.importers.common import (
    SPLIT_NAMES,
    class_names_up_to,
    native_size,
    require_class_number,
)
from progdistill.data.preprocess import ImageRule, decode_image
from progdistill.data.source import Pixels, SourceFacts, SourceImage, UnreadableImageError
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


ROWS_AT_ONCE: Final = 64

BUFFER_BYTES: Final = 2**20
"""Read of a column at a time: a row group may be as large as the file."""


class ParquetSource:
    """Splits by the names of files or folders, rows in the order of sorted file names."""

    def __init__(self, path: Path, rule: ImageRule, *, horizontal_flip_safe: bool) -> None:
        """`path`: a Parquet file or a folder of them. UsageError for damaged files and for columns that are
        missing, of another type, or others than in the first file of the training split.
        """
        self._path, self._rule, self._flip_safe = path, rule, horizontal_flip_safe
        self._files = _files_by_split(path)
        self._counts = {
            split: sum(_opened(file).metadata.num_rows for file in files)
            for split, files in self._files.items()
        }
        self._columns = _columns(self._files)
        self._image_size = rule.image_size or native_size(self.read("train", 0), str(path))

    @property
    def facts(self) -> SourceFacts:
        """See Source."""
        return SourceFacts(
            importer="parquet",
            location=str(self._path),
            description=self._rule.describe(),
            identity={
                "files": [
                    [split, file.name, file.stat().st_size, file.stat().st_mtime_ns]
                    for split, files in self._files.items()
                    for file in files
                ],
                "rule": self._rule.model_dump(mode="json"),
            },
            channels=self._rule.channels,
            image_size=self._image_size,
            class_names=self._columns.class_names,
            horizontal_flip_safe=self._flip_safe,
            splits=self._counts,
        )

    def verify(self) -> None:
        """See Source: nothing is published."""

    def read(self, split: str, start: int) -> Iterator[SourceImage]:
        """See Source. Row groups before `start` are skipped unread."""
        passed = 0
        for file in self._files[split]:
            yield from self._images(file, max(0, start - passed))
            passed += _opened(file).metadata.num_rows

    def _images(self, file: Path, start: int) -> Iterator[SourceImage]:
        """Images of one file from row `start` on."""
        opened, (image, label, _) = _opened(file), self._columns
        sizes = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
        ends = list(accumulate(sizes))
        groups = [group for group, end in enumerate(ends) if end > start]
        if not groups:
            return
        row = ends[groups[0]] - sizes[groups[0]]
        with _explained(file):
            batches = opened.iter_batches(ROWS_AT_ONCE, groups, [image] if label is None else [image, label])
            for batch in batches:
                labels = [0] * len(batch) if label is None else batch.column(label).to_pylist()
                for value, code in zip(batch.column(image), labels, strict=True):
                    if row >= start:
                        decode = partial(_decoded, value.as_py(), self._rule)
                        yield SourceImage(f"{file.name}[{row}]", -1 if code is None else code, decode)
                    row += 1


def _decoded(value: dict[str, Any] | bytes | None, rule: ImageRule) -> Pixels:
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is None:
        raise UnreadableImageError("it has no bytes, only a path" if value else "it is null")
    return decode_image(data, rule)


def _opened(path: Path) -> pq.ParquetFile:
    with _explained(path):
        # By default all that is asked for would be read at once, and kept: the whole file.
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path} is truncated, damaged or no Parquet file: {error}") from error
    except UnicodeEncodeError as error:
        raise UsageError(f"{path} cannot be opened, since its name is not UTF-8: rename it") from error


def _files_by_split(path: Path) -> dict[str, list[Path]]:
    """Files of each split; a single file, or files whose names tell no split, are the training split."""
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    found: dict[str, list[Path]] = {}
    for file in files:
        words = (re.split(r"[-_.]", file.name)[0], file.parent.name)
        split = next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "train")
        found.setdefault(split, []).append(file)
    if "train" not in found:
        raise UsageError(f"{path} has no Parquet files of a training split")
    return found


def _columns(files: dict[str, list[Path]]) -> Columns:
    """Those of the first file of the training split, which every other file must have too."""
    first = files["train"][0]
    columns = find_columns(first, _opened(first).schema_arrow)
    for file in (file for split in files.values() for file in split):
        check_columns(file, _opened(file).schema_arrow, columns, first)
    if columns.label is None or columns.class_names:
        return columns
    return columns._replace(class_names=_numbers(files, columns.label))


def _numbers(files: dict[str, list[Path]], label: str) -> tuple[str, ...]:
    """Classes without names: 0 to the highest number that occurs."""
    highest = 0
    for file in (file for split in files.values() for file in split):
        with _explained(file):
            for batch in _opened(file).iter_batches(columns=[label]):
                highest = max(highest, pa.compute.max(batch.column(label)).as_py() or 0)
        require_class_number(f"{file}: column {label}", highest)
    return class_names_up_to(highest)
