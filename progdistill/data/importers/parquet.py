"""Parquet files as the Hugging Face library `datasets` lays them out.

Format: https://huggingface.co/docs/datasets/image_dataset and the `Image` and `ClassLabel` features: an image
is a struct of `bytes` (an encoded file) and `path`; a class is an integer. The schema's metadata has, under
`huggingface`, JSON whose info.features name each column's `_type` and the class names. Files are called
`<split>-00000-of-00005.parquet`, or lie in a folder called after their split.
"""

import json
import re
from collections.abc import Iterator
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from progdistill.data.image_rule import ImageRule, decode_image
from progdistill.data.importers.native_size import native_size
from progdistill.data.importers.split_names import SPLIT_NAMES
from progdistill.data.source import Pixels, SourceFacts, SourceImage, UnreadableImageError
from progdistill.errors import UsageError

ROWS_AT_ONCE: Final = 64

BUFFER_BYTES: Final = 2**20
"""Read of a column at a time: a row group may be as large as the file."""

_LABEL_NAMES: Final = ("label", "labels", "fine_label", "class")


class _Columns(NamedTuple):
    image: str
    label: str | None
    class_names: tuple[str, ...]


class ParquetSource:
    """Splits by the names of files or folders, rows in the order of sorted file names."""

    def __init__(self, path: Path, rule: ImageRule, *, horizontal_flip_safe: bool) -> None:
        """`path`: a Parquet file or a folder of them. UsageError for damaged files and missing columns."""
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
        try:
            batches = opened.iter_batches(ROWS_AT_ONCE, groups, [image] if label is None else [image, label])
            for batch in batches:
                labels = [0] * len(batch) if label is None else batch.column(label).to_pylist()
                for value, code in zip(batch.column(image), labels, strict=True):
                    if row >= start:
                        decode = partial(_decoded, value.as_py(), self._rule)
                        yield SourceImage(f"{file.name}[{row}]", -1 if code is None else code, decode)
                    row += 1
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"{file} is truncated or damaged: {error}") from error


def _decoded(value: dict[str, Any] | None, rule: ImageRule) -> Pixels:
    data = value.get("bytes") if value else None
    if data is None:
        raise UnreadableImageError("it has no bytes, only a path" if value else "it is null")
    return decode_image(data, rule)


def _opened(path: Path) -> pq.ParquetFile:
    try:
        # By default all that is asked for would be read at once, and kept: the whole file.
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path} is truncated or no Parquet file: {error}") from error


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


def _columns(files: dict[str, list[Path]]) -> _Columns:
    schema = _opened(files["train"][0]).schema_arrow
    features = _features(schema)
    images = [
        field.name
        for field in schema
        if features.get(field.name, {}).get("_type") == "Image" or _is_image_struct(field.type)
    ]
    if len(images) != 1:
        raise UsageError(
            f"{files['train'][0]} has {len(images)} image columns (structs of bytes and path) among"
            f" {', '.join(schema.names)}: keep exactly one"
        )
    classes = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    label = next(iter(classes + [name for name in _LABEL_NAMES if name in schema.names]), None)
    if label is None:
        return _Columns(images[0], None, ())
    if not pa.types.is_integer(schema.field(label).type):
        raise UsageError(
            f"{files['train'][0]}: column {label} holds {schema.field(label).type}, not class numbers"
        )
    names = features.get(label, {}).get("names") or _numbers(files, label)
    return _Columns(images[0], label, tuple(names))


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    metadata = (schema.metadata or {}).get(b"huggingface", b"{}")
    features = json.loads(metadata).get("info", {}).get("features", {})
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _is_image_struct(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    return any(kind.field(index).name == "bytes" for index in range(kind.num_fields))


def _numbers(files: dict[str, list[Path]], label: str) -> list[str]:
    """Classes without names: 0 to the highest number that occurs."""
    highest = 0
    for file in (file for split in files.values() for file in split):
        for batch in _opened(file).iter_batches(columns=[label]):
            highest = max(highest, pa.compute.max(batch.column(label)).as_py() or 0)
    return [str(number) for number in range(highest + 1)]
