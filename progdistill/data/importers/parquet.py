"""Parquet and Arrow files as the Hugging Face library `datasets` lays them out.

Format: https://huggingface.co/docs/datasets/image_dataset and the `Image` and `ClassLabel` features: an image is a
struct of `bytes` (an encoded file) and `path`; a class is an integer. The schema's metadata has, under `huggingface`,
JSON whose info.features name each column's `_type` and the class names. Files are named
`<split>-00000-of-00005.parquet`, or are in a folder named after their split; `save_to_disk` writes `.arrow` files.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import AliasPath, BaseModel, Field

from progdistill.data.columns import CAPTION, Column, caption_width
from progdistill.data.importers.common import explain_damage, native_size, parts_from
from progdistill.data.importers.files import MAX_FILE_BYTES, walk
from progdistill.data.importers.labels import Labels, label_name, require_class_name, require_labels
from progdistill.data.importers.splits import (
    LEFT_OUT,
    SplitChoice,
    UnclearSplitError,
    chosen,
    require_splits,
    split_of_file,
    unclear,
    words_of,
)
from progdistill.data.importers.tables import ARROW_SUFFIXES, ERRORS, PARQUET_SUFFIXES, PROBLEM, Table, open_table
from progdistill.data.importers.unused import Unused
from progdistill.data.preprocess import Preprocessing, decode_image
from progdistill.data.source import Pixels, Source, SourceFacts, SourceImage, UnreadableImageError
from progdistill.errors import UsageError
from progdistill.escape import one_line

_IMAGE_NAMES: Final = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes")
"""Names of a column of plain bytes that are images, if nothing says which column has them."""


class _File(NamedTuple):
    path: Path
    name: str
    """Below the source."""
    table: Table
    partition: dict[str, str]
    """The values in the names of its folders, as Hive has them: `label=cat`."""


class ParquetSource(Source):
    """Splits by the names of files or folders, rows in the order of sorted file names."""

    def __init__(
        self,
        path: Path,
        preprocessing: Preprocessing,
        *,
        horizontal_flip_safe: bool,
        choices: Sequence[SplitChoice] = (),
        captions: str | None = None,
    ) -> None:
        """Open a file, or a folder of them at any depth, all with the columns of the first training file.

        `captions` names a column of text.
        """
        unused = Unused()
        self._preprocessing, self._files = preprocessing, _files_by_split(path, choices, unused)
        self._columns, self._captions = _columns_of(self._files, unused, captions), captions
        classes, self._labels = self._read_labels(path, unused)
        identity: dict[str, Any] = {
            "files": [
                [split, one_line(file.path.name), file.path.stat().st_size, file.path.stat().st_mtime_ns]
                for split, files in self._files.items()
                for file in files
            ],
            "preprocessing": preprocessing.model_dump(mode="json"),
        }
        kind, label = ("folders" if self._columns.in_folders else "column"), self._columns.label
        self.facts = SourceFacts(
            importer="parquet",
            location=str(path),
            description=preprocessing.describe(),
            identity=identity
            | ({"splits": [list(choice) for choice in choices]} if choices else {})
            | ({"captions": captions} if captions else {}),
            channels=preprocessing.channels,
            image_size=preprocessing.image_size or native_size(self.read("train"), str(path)),
            class_names=classes,
            horizontal_flip_safe=horizontal_flip_safe,
            splits={split: sum(file.table.rows for file in files) for split, files in self._files.items()},
            labels_from=f"{kind} {one_line(label)}" if label and classes else "",
            not_used=unused.lines(),
            columns=self._caption_column(),
        )

    def read(self, split: str, start: int = 0) -> Iterator[SourceImage]:
        """See Source. Row groups before `start` are passed over without reading them."""
        files, labels = self._files[split], self._labels[split]
        for part, row in parts_from([file.table.rows for file in files], start):
            first = sum(file.table.rows for file in files[:part])
            yield from self._images(files[part], row, labels[first:])

    def _images(self, file: _File, start: int, labels: NDArray[np.int32]) -> Iterator[SourceImage]:
        """Yield the images of one file from row `start` on."""
        row, sizes = 0, file.table.group_rows
        with explain_damage(file.path, PROBLEM, ERRORS):
            for group, size in enumerate(sizes):
                if row + size <= start:
                    row += size
                    continue
                for batch in file.table.batches(group, [self._columns.image, *filter(None, [self._captions])]):
                    captions = None if self._captions is None else batch.column(self._captions)
                    for place, value in enumerate(batch.column(self._columns.image)):
                        if row >= start:
                            decode = partial(_decode, value.as_py(), self._preprocessing)
                            caption = "" if captions is None else captions[place].as_py() or ""
                            name = f"{one_line(file.path.name)}[{row}]"
                            yield SourceImage(name, int(labels[row]), decode, caption)
                        row += 1

    def _caption_column(self) -> tuple[Column, ...]:
        """The column of captions, as wide as the longest; none without captions."""
        if self._captions is None:
            return ()
        files = [file for files in self._files.values() for file in files]
        width = caption_width(text or "" for file in files for text in self._values(file, self._captions, text=True))
        return (Column(name=CAPTION, shape=(width,), dtype="uint8"),)

    def _read_labels(self, where: Path, unused: Unused) -> tuple[tuple[str, ...], dict[str, NDArray[np.int32]]]:
        """Return the names of the classes, and the label of each row of each split."""
        counts = {split: sum(file.table.rows for file in files) for split, files in self._files.items()}
        if (column := self._columns.label) is None:
            return (), {split: np.zeros(count, np.int32) for split, count in counts.items()}
        name = f"folders {column}=…" if self._columns.in_folders else f"column {column}"
        labels = Labels(f"{where}: {name}")
        for files in self._files.values():
            for file in files:
                for row, value in enumerate(self._values(file, column)):
                    labels.add(value, f"{one_line(file.path.name)}[{row}]")
        classes, numbers = labels.finish(self._columns.class_names)
        if not len(labels.names):
            unused.add("labels that are all hidden (-1 or null)", name)
            return (), {split: np.zeros(count, np.int32) for split, count in counts.items()}
        ends = np.cumsum(list(counts.values()))[:-1]
        found = dict(zip(counts, np.split(numbers, ends), strict=True))
        for split, of_split in found.items():
            files_of_split = [file.name for file in self._files[split]]
            require_labels(str(where), split, of_split, files_of_split)
        return classes, found

    def _values(self, file: _File, column: str, *, text: bool = False) -> Iterator[Any]:
        if self._columns.in_folders and not text:
            yield from (file.partition[column] for _ in range(file.table.rows))
            return
        with explain_damage(file.path, PROBLEM, ERRORS):
            for group in range(len(file.table.group_rows)):
                for batch in file.table.batches(group, [column]):
                    yield from batch.column(column).to_pylist()


def _decode(value: dict[str, Any] | bytes | None, preprocessing: Preprocessing) -> Pixels:
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is None:
        raise UnreadableImageError("it has no bytes, only a path" if value else "it is null")
    if len(data) > MAX_FILE_BYTES:
        raise UnreadableImageError(f"it has {len(data):,} bytes, more than {MAX_FILE_BYTES:,}")
    return decode_image(data, preprocessing)


def is_table_name(name: str) -> bool:
    """Whether a file name is that of a Parquet or an Arrow file."""
    return name.lower().endswith((*PARQUET_SUFFIXES, *ARROW_SUFFIXES))


def _files_by_split(path: Path, choices: Sequence[SplitChoice], unused: Unused) -> dict[str, list[_File]]:
    """Open the files of each split, the training split first."""
    found = [(path, (), path.name)] if path.is_file() else _files_below(path, unused)
    assigned: list[tuple[Path, tuple[str, ...], str, str | None]] = []
    for file, folders, name in found:
        assigned.append((file, folders, name, _split_of(path, name, folders, file.stem, choices)))
    require_splits(str(path), [(name, split) for _, _, name, split in assigned if split != LEFT_OUT])
    splits: dict[str, list[_File]] = {}
    for file, folders, name, split in assigned:
        if split == LEFT_OUT:
            unused.add("left out by --split none", name)
        else:
            splits.setdefault(split or "train", []).append(_File(file, name, open_table(file), _partition(folders)))
    if "train" not in splits:
        raise UsageError(f"{path} has no Parquet or Arrow files of a training split")
    for split, files in splits.items():
        if not sum(file.table.rows for file in files):
            raise UsageError(f"{path}: the files of split {split} have no rows: move them away, or write them again")
    return dict(sorted(splits.items(), key=lambda item: (item[0] != "train", item[0])))


def _files_below(root: Path, unused: Unused) -> list[tuple[Path, tuple[str, ...], str]]:
    files = []
    for file in walk(root, unused):
        if is_table_name(file.name):
            files.append((root.joinpath(*file.folders, file.name), file.folders, file.path))
        else:
            ending = Path(file.name).suffix.lower()
            unused.add(f"file beside the tables ({one_line(ending) or 'no ending'})", file.path)
    return sorted(files)


def _split_of(
    where: Path, name: str, folders: tuple[str, ...], stem: str, choices: Sequence[SplitChoice]
) -> str | None:
    if (assigned := chosen(choices, name)) is not None:
        return assigned.split
    try:
        return split_of_file(folders, words_of(stem)).split
    except UnclearSplitError as error:
        raise unclear(str(where), name, error) from error


def _partition(folders: Sequence[str]) -> dict[str, str]:
    pairs = (folder.partition("=") for folder in folders)
    return {key: unquote(value) for key, equals, value in pairs if equals}


class _Columns(NamedTuple):
    """Names of the columns (None: no classes), and of the classes (empty: the files have no names)."""

    image: str
    label: str | None
    class_names: tuple[str, ...]
    in_folders: bool = False
    """Whether the label is in the names of folders."""


class _Feature(BaseModel):
    kind: str = Field("", alias="_type")
    names: Any = None


class _Metadata(BaseModel):
    features: dict[str, Annotated[_Feature | Any, Field(union_mode="left_to_right")]] = Field(
        {}, validation_alias=AliasPath("info", "features")
    )


def _columns_of(files: dict[str, list[_File]], unused: Unused, captions: str | None) -> _Columns:
    """Return the columns of the first training file, after checking that every file has them."""
    first, every = files["train"][0], [file for split in files.values() for file in split]
    columns = _find_columns(first)
    for file in every:
        _check_columns(file, columns, first)
        if captions is not None:
            _check_captions(file, captions)
    for name in dict.fromkeys(name for file in every for name in file.table.schema.names):
        if name not in (columns.image, captions, None if columns.in_folders else columns.label):
            unused.add("column", name)
    for key in dict.fromkeys(key for file in every for key in file.partition):
        if not (columns.in_folders and key == columns.label) and not words_of(key) and key.lower() != "split":
            unused.add("value in names of folders", key)
    return columns


def _find_columns(file: _File) -> _Columns:
    schema = file.table.schema
    features = _features(schema)
    images = [
        field.name for field in schema if _has_bytes(field.type) or features.get(field.name, _Feature()).kind == "Image"
    ]
    if not images:
        plain = {field.name for field in schema if _is_binary(field.type)}
        images = [name for name in _IMAGE_NAMES if name in plain][:1]
    if not images and "file_name" in schema.names:
        raise UsageError(f"{file.path} describes image files: save it as metadata.csv beside them")
    if len(images) != 1:
        shown = ", ".join(map(one_line, schema.names[:20]))
        raise UsageError(f"{file.path} has {len(images)} image columns among {shown}: keep exactly one")
    classes = [name for name, feature in features.items() if feature.kind == "ClassLabel"]
    label = next((name for name in classes if name in schema.names), None) or label_name(schema.names)
    if label is None and (label := label_name(file.partition)) is not None:
        return _Columns(images[0], label, (), in_folders=True)
    return _Columns(images[0], label, _class_names(features, label))


def _check_columns(file: _File, columns: _Columns, first: _File) -> None:
    """Raise UsageError unless a file has the columns that were found in the file `first`."""
    path, schema = file.path, file.table.schema
    if columns.in_folders and columns.label not in file.partition:
        raise UsageError(f"{path} is in no folder {columns.label}=…, unlike {first.path}: move it")
    label = None if columns.in_folders else columns.label
    for name in filter(None, (columns.image, label)):
        if name not in schema.names:
            raise UsageError(f"{path} has no column {name}, which {first.path} has: add it, or move the file away")
        if schema.names.count(name) > 1:
            raise UsageError(f"{path} has {schema.names.count(name)} columns {name}: keep exactly one")
    kind = schema.field(columns.image).type
    if not _is_binary(kind) and not _has_bytes(kind):
        raise UsageError(f"{path}: column {columns.image} holds {kind}, not the bytes of image files")
    if label is None:
        return
    expected, kind = first.table.schema.field(label).type, schema.field(label).type
    if not _is_class(kind) or _is_text(kind) != _is_text(expected):
        raise UsageError(f"{path}: column {label} holds {kind}, not class numbers 0, 1, 2, … or names as {first.path}")
    names = _class_names(_features(schema), label)
    for number, (found, wanted) in enumerate(zip(names, columns.class_names, strict=False)):
        if found != wanted:
            raise UsageError(f"{path}: class {number} of column {label} is {found!r}, but {wanted!r} in {first.path}")
    for name in names:
        require_class_name(str(path), name)


def _check_captions(file: _File, name: str) -> None:
    """Raise UsageError unless a file has one column of text of this name."""
    schema = file.table.schema
    if schema.names.count(name) != 1 or not _is_text(schema.field(name).type):
        texts = [field.name for field in schema if _is_text(field.type)]
        raise UsageError(
            f"{file.path} has no column {name} of text for --captions: its columns of text are"
            f" {', '.join(map(one_line, texts)) or 'none'}"
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


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_class(kind: pa.DataType) -> bool:
    is_number = (pa.types.is_integer, pa.types.is_null, pa.types.is_floating, pa.types.is_boolean)
    return any(test(kind) for test in is_number) or _is_text(kind)
