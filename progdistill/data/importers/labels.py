"""Labels as people write them: numbers or names of classes, under several names, hidden ones, and beside the images."""

import csv
import io
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from progdistill.data.importers.common import MAX_CLASSES
from progdistill.data.importers.splits import split_option
from progdistill.errors import UsageError
from progdistill.escape import one_line

LABEL_NAMES: Final = (
    *("label", "labels", "fine_label", "fine_labels", "class", "classes", "cls", "class_id", "class_label"),
    *("target", "targets", "category", "categories", "category_id"),
)
"""Names of a column, an array or a field of labels. Of several, the first in this order is used."""

METADATA_NAMES: Final = ("metadata.csv", "metadata.jsonl")
"""Beside images: a table with `file_name` and a label
(https://huggingface.co/docs/hub/datasets-image#additional-columns)."""

MAX_METADATA_BYTES: Final = 2**28
MAX_LABEL_BYTES: Final = 2**20
MAX_NAME_LENGTH: Final = 200

HIDDEN: Final = -1
"""In place of a class: null or -1, which publishers write for labels that they keep to themselves."""


def label_name(names: Iterable[str]) -> str | None:
    """The name among these under which labels are, whatever its case; None if there is none."""
    by_lower = {name.lower(): name for name in reversed(list(names))}
    return next((by_lower[name] for name in LABEL_NAMES if name in by_lower), None)


class Labels:
    """Collects one label an image: a number, the name of a class, or nothing."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._codes: dict[str, int] = {}
        self._found = array("i")

    @property
    def names(self) -> Sequence[str]:
        """Every label found but hidden ones."""
        return list(self._codes)

    def add(self, value: object, name: str) -> None:
        """Add the label of the image `name`. Raises UsageError for what is neither a number nor the name of a class."""
        if isinstance(value, bool | float) and value == value // 1:
            value = int(value)
        if value is None or value != value or value in (HIDDEN, "", "-1"):
            self._found.append(HIDDEN)
            return
        if not isinstance(value, int | str):
            raise UsageError(
                f"{self._where}: the label of {name} is {_shown(value)}, no number or name of a class: correct it, or"
                " remove the labels to go on without classes"
            )
        text = str(value).strip() if isinstance(value, str) else str(value)
        code = self._codes.get(text)
        if code is None:
            require_class_name(self._where, text)
            if len(self._codes) >= MAX_CLASSES:
                raise UsageError(f"{self._where} has more than {MAX_CLASSES:,} different labels: they are no classes")
            code = self._codes[text] = len(self._codes)
        self._found.append(code)

    def finish(self, names: Sequence[str] = ()) -> tuple[tuple[str, ...], NDArray[np.int32]]:
        """Return the names of the classes, and the class of each image, HIDDEN for none.

        Numbers are classes as they are, and `names` are their names; other labels are sorted by name.

        Raises:
            UsageError: A number is too large for a class, or negative.
        """
        codes = np.frombuffer(self._found, np.int32) if self._found else np.empty(0, np.int32)
        texts = list(self._codes)
        if all(_is_number(text) for text in texts):
            numbers = [int(text) for text in texts]
            for number in numbers:
                if not 0 <= number < MAX_CLASSES:
                    raise UsageError(
                        f"{self._where} has class number {number}, not from 0 to {MAX_CLASSES - 1}: number classes"
                        " 0, 1, 2, …"
                    )
            classes = tuple(names) or tuple(map(str, range(max(numbers, default=-1) + 1)))
            index = np.array([*numbers, HIDDEN], np.int32)
        else:
            classes = tuple(sorted(texts))
            place = {text: number for number, text in enumerate(classes)}
            index = np.array([*(place[text] for text in texts), HIDDEN], np.int32)
        return classes, index[codes]


def require_class_name(where: str, name: str) -> None:
    """Raise UsageError for the name of a class that cannot be shown."""
    if len(name) > MAX_NAME_LENGTH or not name.isprintable() or not name:
        raise UsageError(f"{where} has a class called {_shown(name)}: use up to {MAX_NAME_LENGTH} printable characters")


def require_labels(where: str, split: str, labels: NDArray[np.int32], files: Sequence[str]) -> None:
    """Raise UsageError for a split of whose images some or all have no label.

    `files` are the files or folders of the split.
    """
    hidden = int(np.count_nonzero(labels == HIDDEN))
    if hidden == len(labels) > 0:
        advice = " ".join(split_option("none", file) for file in files)
        raise UsageError(
            f"{where}: all labels of split {split} are hidden (-1 or null), as publishers hide those of a test: leave"
            f" that split out with {advice}, or move its files away"
        )
    if hidden:
        first = int(np.argmax(labels == HIDDEN))
        raise UsageError(
            f"{where}: {hidden:,} of {len(labels):,} images of split {split} have no label (-1 or null), the first is"
            f" number {first}: label them, or remove them from the source"
        )


class MetadataTable(NamedTuple):
    """What a `metadata` file says: the label of each file by its path, and where the labels are."""

    labels: dict[str, object]
    column: str | None
    others: tuple[str, ...]
    """Columns that are not used."""


def read_metadata(name: str, data: bytes, where: str) -> MetadataTable:
    """Read `metadata.csv` or `metadata.jsonl`. Raises UsageError for what is none."""
    try:
        text = data.decode("utf-8-sig")
        rows = list(_csv_rows(text) if name.endswith(".csv") else _json_rows(text))
    except (ValueError, csv.Error, RecursionError) as error:
        raise UsageError(f"{where} cannot be read ({error}): correct it, or move it away") from error
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if "file_name" not in columns:
        raise UsageError(f"{where} has no column file_name, but {', '.join(map(_shown, columns[:5]))}: add it")
    column = label_name(columns)
    labels = {_normal(str(row.get("file_name", ""))): row.get(column) if column else None for row in rows}
    others = tuple(one_line(other) for other in columns if other not in ("file_name", column))
    return MetadataTable(labels, column, others)


def _csv_rows(text: str) -> Iterator[dict[str, object]]:
    for row in csv.DictReader(io.StringIO(text, newline=""), strict=True):
        yield {key: value for key, value in row.items() if isinstance(key, str)}


def _json_rows(text: str) -> Iterator[dict[str, object]]:
    for line in text.splitlines():
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"{_shown(row)} is no object")
            yield row


def _normal(path: str) -> str:
    return path.replace("\\", "/").removeprefix("./")


def sidecar_label(extension: str, data: bytes, where: str) -> tuple[object, tuple[str, ...]]:
    """Read the label in a file beside an image, `.cls` or `.json`, as WebDataset has them.

    Returns the label, None if there is none, and what else is in the file.
    """
    try:
        text = data.decode("utf-8").strip()
        if extension == "cls":
            return text, ()
        facts: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} cannot be read ({error}): correct it, or remove it") from error
    if isinstance(facts, int | str):
        return facts, ()
    if not isinstance(facts, Mapping):
        return None, ("json",)
    field = label_name(facts)
    others = tuple(f"{one_line(name)} (json)" for name in facts if name != field)
    return (facts[field] if field else None), others


def _is_number(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) <= 40 and str(int(text)) == text


def _shown(value: object) -> str:
    text = one_line(str(value))
    return repr(text if len(text) <= 40 else f"{text[:40]}…")
