"""Parquet files as the Hugging Face library `datasets` lays them out.

Format: https://huggingface.co/docs/datasets/image_dataset and the `Image` and `ClassLabel` features: an image is a
struct of `bytes` (an encoded file) and `path`; a class is an integer. The schema's metadata has, under `huggingface`,
JSON whose info.features name each column's `_type` and the class names. Files are named
`<split>-00000-of-00005.parquet`, or lie in a folder named after their split.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from pydantic import AliasPath, BaseModel, Field

from progdistill.data.importers.common import SPLIT_NAMES, explain_damage, native_size, parts_from, require_class_number
from progdistill.data.preprocess import Preprocessing, decode_image
from progdistill.data.source import Pixels, Source, SourceFacts, SourceImage, UnreadableImageError, readable_name
from progdistill.errors import UsageError

BATCH_ROWS: Final = 64
BUFFER_BYTES: Final = 2**20
"""Read from a column at a time: a row group can be as large as the file."""

_LABEL_NAMES: Final = ("label", "labels", "fine_label", "class")
_PROBLEM: Final = "truncated, damaged or not a Parquet file"
_ERRORS: Final = (pa.ArrowException, OSError)


class ParquetSource(Source):
    """Splits by the names of files or folders, rows in the order of sorted file names."""

    def __init__(self, path: Path, preprocessing: Preprocessing, *, horizontal_flip_safe: bool) -> None:
        """Open a Parquet file, or a folder of them at any depth, all with the columns of the first training file."""
        self._preprocessing, self._files = preprocessing, _files_by_split(path)
        self._rows = {split: [_open(file).metadata.num_rows for file in files] for split, files in self._files.items()}
        self._columns = _columns_of(self._files)
        self.facts = SourceFacts(
            importer="parquet",
            location=str(path),
            description=preprocessing.describe(),
            identity={
                "files": [
                    [split, file.name, file.stat().st_size, file.stat().st_mtime_ns]
                    for split, files in self._files.items()
                    for file in files
                ],
                "preprocessing": preprocessing.model_dump(mode="json"),
            },
            channels=preprocessing.channels,
            image_size=preprocessing.image_size or native_size(self.read("train"), str(path)),
            class_names=self._columns.class_names,
            horizontal_flip_safe=horizontal_flip_safe,
            splits={split: sum(rows) for split, rows in self._rows.items()},
        )

    def read(self, split: str, start: int = 0) -> Iterator[SourceImage]:
        """See Source. Row groups before `start` are skipped without reading them."""
        for part, row in parts_from(self._rows[split], start):
            yield from self._images(self._files[split][part], row)

    def _images(self, path: Path, start: int) -> Iterator[SourceImage]:
        """Yield the images of one file from row `start` on."""
        file, (image, label, _) = _open(path), self._columns
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        groups = [group for group, _ in parts_from(sizes, start)]
        row = sum(sizes) - sum(sizes[group] for group in groups)
        with explain_damage(path, _PROBLEM, _ERRORS):
            for batch in file.iter_batches(BATCH_ROWS, groups, [image, label] if label else [image]):
                labels = batch.column(label).to_pylist() if label else [0] * len(batch)
                for value, number in zip(batch.column(image), labels, strict=True):
                    if row >= start:
                        decode = partial(_decode, value.as_py(), self._preprocessing)
                        yield SourceImage(f"{path.name}[{row}]", -1 if number is None else number, decode)
                    row += 1


def _decode(value: dict[str, Any] | bytes | None, preprocessing: Preprocessing) -> Pixels:
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is None:
        raise UnreadableImageError("it has no bytes, only a path" if value else "it is null")
    return decode_image(data, preprocessing)


def _open(path: Path) -> pq.ParquetFile:
    if str(path) != readable_name(str(path)):
        raise UsageError(f"{path} cannot be opened, since its name is not UTF-8: rename it")
    with explain_damage(path, _PROBLEM, _ERRORS):
        # By default, all requested columns would be read at once and kept: the whole file.
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES)


def _files_by_split(path: Path) -> dict[str, list[Path]]:
    """Return the files of each split. Files whose names tell no split are of the training split."""
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    found: dict[str, list[Path]] = {}
    for file in files:
        candidates = (re.split(r"[-_.]", file.name)[0], file.parent.name)
        split = next((SPLIT_NAMES[name] for name in candidates if name in SPLIT_NAMES), "train")
        found.setdefault(split, []).append(file)
    if "train" not in found:
        raise UsageError(f"{path} has no Parquet files of a training split")
    return found


class _Columns(NamedTuple):
    """Names of the columns (None: no classes), and of the classes (empty: the files have no names)."""

    image: str
    label: str | None
    class_names: tuple[str, ...]


class _Feature(BaseModel):
    kind: str = Field("", alias="_type")
    names: Any = None


class _Metadata(BaseModel):
    features: dict[str, Annotated[_Feature | Any, Field(union_mode="left_to_right")]] = Field(
        {}, validation_alias=AliasPath("info", "features")
    )


def _columns_of(files: dict[str, list[Path]]) -> _Columns:
    """Return the columns of the first training file, after checking that every file has them."""
    first, paths = files["train"][0], [path for split in files.values() for path in split]
    columns = _find_columns(first, _open(first).schema_arrow)
    for path in paths:
        _check_columns(path, _open(path).schema_arrow, columns, first)
    if columns.label is None or columns.class_names:
        return columns
    largest = 0
    for path in paths:
        with explain_damage(path, _PROBLEM, _ERRORS):
            for batch in _open(path).iter_batches(columns=[columns.label]):
                largest = max(largest, pa.compute.max(batch.column(columns.label)).as_py() or 0)
        require_class_number(f"{path}: column {columns.label}", largest)
    return columns._replace(class_names=tuple(map(str, range(largest + 1))))


def _find_columns(path: Path, schema: pa.Schema) -> _Columns:
    features = _features(schema)
    images = [
        field.name for field in schema if _has_bytes(field.type) or features.get(field.name, _Feature()).kind == "Image"
    ]
    if len(images) != 1:
        raise UsageError(f"{path} has {len(images)} image columns among {', '.join(schema.names)}: keep exactly one")
    classes = [name for name, feature in features.items() if feature.kind == "ClassLabel"]
    label = next((name for name in (*classes, *_LABEL_NAMES) if name in schema.names), None)
    return _Columns(images[0], label, _class_names(features, label))


def _check_columns(path: Path, schema: pa.Schema, columns: _Columns, first: Path) -> None:
    """Raise UsageError unless a file has the columns that were found in the file `first`."""
    for name in filter(None, (columns.image, columns.label)):
        if name not in schema.names:
            raise UsageError(f"{path} has no column {name}, which {first} has: add it, or move the file away")
        if schema.names.count(name) > 1:
            raise UsageError(f"{path} has {schema.names.count(name)} columns {name}: keep exactly one")
    kind = schema.field(columns.image).type
    if kind not in (pa.binary(), pa.large_binary()) and not _has_bytes(kind):
        raise UsageError(f"{path}: column {columns.image} holds {kind}, not the bytes of image files")
    if columns.label is None:
        return
    if not pa.types.is_integer(kind := schema.field(columns.label).type):
        raise UsageError(f"{path}: column {columns.label} holds {kind}, not class numbers 0, 1, 2, …")
    names = _class_names(_features(schema), columns.label)
    for number, (found, expected) in enumerate(zip(names, columns.class_names, strict=False)):
        if found != expected:
            raise UsageError(
                f"{path}: class {number} of column {columns.label} is {found!r}, but {expected!r} in {first}"
            )


def _features(schema: pa.Schema) -> dict[str, _Feature]:
    metadata = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = _Metadata.model_validate_json(metadata).features
    except ValueError:
        return {}
    # Features of nested columns, which hold neither images nor classes, have other forms.
    return {name: feature for name, feature in features.items() if isinstance(feature, _Feature)}


def _class_names(features: dict[str, _Feature], label: str | None) -> tuple[str, ...]:
    names = features[label].names if label in features else None
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _has_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)
