"""Images in numpy's files: `.npy` (images alone); `.npz`, or a folder of `.npy` (labels and splits by their names)."""

import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from progdistill.data.importers.common import require_class_number
from progdistill.data.importers.files import is_hidden
from progdistill.data.importers.labels import HIDDEN, LABEL_NAMES, require_labels
from progdistill.data.importers.numpy_files import (
    array_names,
    is_array_name,
    iterate_rows,
    read_header,
    read_labels,
    where_in,
)
from progdistill.data.importers.splits import (
    LEFT_OUT,
    SPLIT_WORDS,
    SplitChoice,
    UnclearSplitError,
    chosen,
    require_splits,
    split_of_file,
    unclear,
    words_of,
)
from progdistill.data.importers.unused import Unused
from progdistill.data.preprocess import MAX_PIXELS
from progdistill.data.source import Source, SourceFacts, SourceImage
from progdistill.errors import UsageError
from progdistill.escape import one_line

_IMAGE_NAMES: Final = ("images", "image", "imgs", "img", "x", "data", "pixels", "arr_0")
"""Names of arrays of images, without the word of the split. Of several, the first in this order is used."""

_ARRAY_LABEL_NAMES: Final = (*LABEL_NAMES, "y", "t", "arr_1")


class _Array(NamedTuple):
    name: str | None
    labels: NDArray[np.int32]
    channels_first: bool


class _Names(NamedTuple):
    images: str | None
    labels: str | None


class ArraysSource(Source):
    """uint8 images [count, size, size], optionally with channels (1 or 3) last or first."""

    def __init__(self, path: Path, *, horizontal_flip_safe: bool, choices: Sequence[SplitChoice] = ()) -> None:
        """Read headers and labels. Raises UsageError for names, shapes or types that are not of images."""
        self._path, unused = path, Unused()
        keys = _names_by_split(path, choices, unused)
        unlabeled = [names.images for names in keys.values() if names.labels is None]
        if 0 < len(unlabeled) < len(keys):
            raise UsageError(f"{path}: {unlabeled[0]} has no classes, unlike the other images: add them")
        shapes = {split: _image_shape(path, names.images) for split, names in keys.items()}
        self._size, self._channels, _ = shapes["train"]
        self._arrays = {}
        for split, (images, labels) in keys.items():
            if shapes[split][:2] != shapes["train"][:2]:
                raise UsageError(f"{path}: {images} has images of another shape than the training split")
            count = read_header(path, images).shape[0]
            self._arrays[split] = _Array(images, _read_labels(path, labels, count), shapes[split][2])
        largest = max(int(array.labels.max(initial=HIDDEN)) for array in self._arrays.values())
        labels_from = ", ".join(names.labels for names in keys.values() if names.labels)
        if labels_from and largest == HIDDEN:
            unused.add("labels that are all hidden (-1)", labels_from)
            self._arrays = {split: array._replace(labels=array.labels * 0) for split, array in self._arrays.items()}
            unlabeled, labels_from = [None], ""
        for split, array in self._arrays.items():
            require_labels(str(path), split, array.labels, [array.name or path.name])
        identity = _identity(path)
        self.facts = SourceFacts(
            importer="arrays",
            location=str(path),
            description="as they are",
            identity=identity | ({"splits": [list(choice) for choice in choices]} if choices else {}),
            channels=self._channels,
            image_size=self._size,
            class_names=() if unlabeled else tuple(map(str, range(largest + 1))),
            horizontal_flip_safe=horizontal_flip_safe,
            splits={split: len(array.labels) for split, array in self._arrays.items()},
            labels_from=f"array {labels_from}" if labels_from else "",
            not_used=unused.lines(),
        )

    def read(self, split: str, start: int = 0) -> Iterator[SourceImage]:
        array, row = self._arrays[split], start
        for chunk in iterate_rows(self._path, array.name, start):
            for image in chunk.transpose(0, 2, 3, 1) if array.channels_first else chunk:
                pixels = image.reshape(self._size, self._size, self._channels)
                yield SourceImage(f"{array.name or self._path.name}[{row}]", int(array.labels[row]), pixels)
                row += 1


def _identity(path: Path) -> dict[str, JsonValue]:
    if path.is_dir():
        files = [_identity(path / f"{name}.npy") for name in array_names(path)]
        return {"files": files}  # type: ignore[dict-item]
    file = path.stat()
    return {"name": one_line(path.name), "bytes": file.st_size, "modified_ns": file.st_mtime_ns}


def _names_by_split(path: Path, choices: Sequence[SplitChoice], unused: Unused) -> dict[str, _Names]:
    """Find the arrays of images and of labels in each split, the training split first."""
    if path.suffix.lower() == ".npy":
        split = _split_of(path, path.stem, choices) or "train"
        require_splits(str(path), [(path.name, split)])
        return {split: _Names(None, None)}
    names = array_names(path)
    images, labels = _by_split(path, names, _IMAGE_NAMES, choices), _by_split(path, names, _ARRAY_LABEL_NAMES, choices)
    images.pop(LEFT_OUT, None)
    if not images:
        shown = ", ".join(map(one_line, names[:10]))
        raise UsageError(f"{path} has arrays {shown}: name the images one of {', '.join(_IMAGE_NAMES)}")
    require_splits(str(path), [(name, split) for split, name in images.items()])
    found = {split or "train": _Names(name, labels.get(split)) for split, name in images.items()}
    for name in sorted(os.listdir(path)) if path.is_dir() else ():
        if not is_array_name(name):
            unused.add("hidden" if is_hidden(name) else "no array", name)
    for name in names:
        if not any(name in (used.images, used.labels) for used in found.values()):
            unused.add("array", name)
    return dict(sorted(found.items(), key=lambda item: (item[0] != "train", item[0])))


def _by_split(
    path: Path, names: Sequence[str], wanted: Sequence[str], choices: Sequence[SplitChoice]
) -> dict[str | None, str]:
    """Of each split, the array with the first of the wanted names; under None, of arrays without a split's word."""
    found: dict[str | None, str] = {}
    for name in sorted(names, key=lambda name: _rank(name, wanted)):
        if _rank(name, wanted) < len(wanted):
            found.setdefault(_split_of(path, name, choices), name)
    return found


def _rank(name: str, wanted: Sequence[str]) -> int:
    """The place of an array's name, without the word of the split, among the wanted ones."""
    parts = [part for part in re.split(r"[^\w]|_", name.lower()) if part not in SPLIT_WORDS]
    base = "_".join(filter(None, parts))
    return wanted.index(base) if base in wanted else len(wanted)


def _split_of(path: Path, name: str, choices: Sequence[SplitChoice]) -> str | None:
    if (assigned := chosen(choices, name)) is not None:
        return assigned.split
    try:
        return split_of_file((), words_of(name)).split
    except UnclearSplitError as error:
        raise unclear(str(path), name, error) from error


def _image_shape(path: Path, name: str | None) -> tuple[int, Literal[1, 3], bool]:
    """Return the image size, the channels, and whether channels come first."""
    header, where = read_header(path, name), where_in(path, name)
    if header.dtype != np.uint8:
        raise UsageError(f"{where} holds {header.dtype}: images are uint8, 0 to 255; scale and convert them")
    if 0 in header.shape:
        raise UsageError(f"{where} has shape {list(header.shape)}, without any pixels: save the images in it")
    if math.prod(header.shape[1:]) > 3 * MAX_PIXELS:
        raise UsageError(f"{where} has shape {list(header.shape)}: an image has at most {MAX_PIXELS:,} pixels")
    match header.shape:
        case (_, height, width) if height == width:
            return height, 1, False
        case (_, height, width, 1 | 3 as channels) if height == width:
            return height, channels, False
        case (_, 1 | 3 as channels, height, width) if height == width:
            return height, channels, True
    raise UsageError(f"{where} has shape {list(header.shape)}: use [count, size, size], or with 1 or 3 channels")


def _read_labels(path: Path, name: str | None, count: int) -> NDArray[np.int32]:
    """Read the labels of `count` images, int32 [count]; HIDDEN for -1."""
    if name is None:
        return np.zeros(count, np.int32)
    header = read_header(path, name)
    if header.dtype.kind not in "iu" or not header.shape or math.prod(header.shape) != count:
        raise UsageError(f"{path}: {name} is {header.dtype} {list(header.shape)}: expected {count:,} class numbers")
    labels = read_labels(path, name).reshape(count)
    require_class_number(f"{path}: {name}", int(labels.max(initial=0)))
    if (least := int(labels.min(initial=0))) < HIDDEN:
        raise UsageError(f"{path}: {name} has class number {least}: number classes 0, 1, 2, …")
    return labels.astype(np.int32)
