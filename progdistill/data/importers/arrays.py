"""Images in one numpy file: `.npy` (images alone) or `.npz` (images, classes and splits by key)."""

import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Final, Literal, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from progdistill.data.importers.common import explain_damage, require_class_number
from progdistill.data.source import Source, SourceFacts, SourceImage, readable_name
from progdistill.errors import UsageError

CHUNK_BYTES: Final = 2**24

_LAYOUTS: Final = (
    {"train": ("images", "labels")},
    {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")},
    {"train": ("train_images", "train_labels"), "test": ("test_images", "test_labels")},
    {"train": ("data", "labels")},
    {"train": ("arr_0", "arr_1")},
)
"""Supported keys of images and classes; the last is what numpy.savez writes without names."""

_PROBLEM: Final = "truncated or damaged"
_ERRORS: Final = (zipfile.BadZipFile, OSError, EOFError, ValueError, KeyError, NotImplementedError)


class _Array(NamedTuple):
    name: str | None
    labels: NDArray[np.int64]
    channels_first: bool


class ArraysSource(Source):
    """uint8 images [count, size, size], optionally with channels (1 or 3) last or first."""

    def __init__(self, path: Path, *, horizontal_flip_safe: bool) -> None:
        """Read headers and classes. Raises UsageError for keys, shapes or types that are not of images."""
        self._path = path
        keys = {"train": (None, None)} if path.suffix == ".npy" else _find_keys(path)
        unlabeled = [images for images, labels in keys.values() if labels is None]
        if 0 < len(unlabeled) < len(keys):
            raise UsageError(f"{path}: {unlabeled[0]} has no classes, unlike the other images: add them")
        shapes = {split: _image_shape(path, images) for split, (images, _) in keys.items()}
        self._size, self._channels, _ = shapes["train"]
        self._arrays = {}
        for split, (images, labels) in keys.items():
            if shapes[split][:2] != shapes["train"][:2]:
                raise UsageError(f"{path}: {images} has images of another shape than the training split")
            count = read_header(path, images).shape[0]
            self._arrays[split] = _Array(images, _read_labels(path, labels, count), shapes[split][2])
        largest = max(int(array.labels.max(initial=0)) for array in self._arrays.values())
        file = path.stat()
        self.facts = SourceFacts(
            importer="arrays",
            location=str(path),
            description="as they are",
            identity={"name": readable_name(path.name), "bytes": file.st_size, "modified_ns": file.st_mtime_ns},
            channels=self._channels,
            image_size=self._size,
            class_names=() if unlabeled else tuple(map(str, range(largest + 1))),
            horizontal_flip_safe=horizontal_flip_safe,
            splits={split: len(array.labels) for split, array in self._arrays.items()},
        )

    def read(self, split: str, start: int = 0) -> Iterator[SourceImage]:
        array, row = self._arrays[split], start
        for chunk in iterate_rows(self._path, array.name, start):
            for image in chunk.transpose(0, 2, 3, 1) if array.channels_first else chunk:
                pixels = image.reshape(self._size, self._size, self._channels)
                yield SourceImage(f"{array.name or self._path.name}[{row}]", int(array.labels[row]), pixels)
                row += 1


def _find_keys(path: Path) -> dict[str, tuple[str, str | None]]:
    with explain_damage(path, _PROBLEM, _ERRORS), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    for layout in _LAYOUTS:
        if layout["train"][0] in names:
            return {
                split: (images, labels if labels in names else None)
                for split, (images, labels) in layout.items()
                if images in names
            }
    supported = ", ".join(layout["train"][0] for layout in _LAYOUTS)
    raise UsageError(f"{path} has arrays {', '.join(names)}: name the images one of {supported}")


def _image_shape(path: Path, name: str | None) -> tuple[int, Literal[1, 3], bool]:
    """Return the image size, the channels, and whether channels come first."""
    header, where = read_header(path, name), _where(path, name)
    if header.dtype != np.uint8:
        raise UsageError(f"{where} holds {header.dtype}: images are uint8, 0 to 255; scale and convert them")
    if 0 in header.shape:
        raise UsageError(f"{where} has shape {list(header.shape)}, without any pixels: save the images in it")
    match header.shape:
        case (_, height, width) if height == width:
            return height, 1, False
        case (_, height, width, 1 | 3 as channels) if height == width:
            return height, channels, False
        case (_, 1 | 3 as channels, height, width) if height == width:
            return height, channels, True
    raise UsageError(f"{where} has shape {list(header.shape)}: use [count, size, size], or with 1 or 3 channels")


def _read_labels(path: Path, name: str | None, count: int) -> NDArray[np.int64]:
    if name is None:
        return np.zeros(count, np.int64)
    header = read_header(path, name)
    if header.dtype.kind not in "iu" or not header.shape or math.prod(header.shape) != count:
        raise UsageError(f"{path}: {name} is {header.dtype} {list(header.shape)}: expected {count:,} class numbers")
    labels = read_array(path, name)
    require_class_number(f"{path}: {name}", int(labels.max(initial=0)))
    return labels.reshape(count).astype(np.int64)


class ArrayHeader(NamedTuple):
    """Shape and element type of an array."""

    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"


def read_header(path: Path, name: str | None) -> ArrayHeader:
    """Read the header of the array `name` in an .npz file, or of an .npy file (None).

    Raises UsageError if the file is damaged, or the array is of Python objects or in column order.
    """
    with _opened(path, name) as (_, header):
        return header


def read_array(path: Path, name: str) -> NDArray[Any]:
    """Read a small array, such as labels, as a whole. Raises as `read_header` does."""
    with _opened(path, name) as (file, header):
        return np.frombuffer(file.read(), header.dtype).reshape(header.shape)


def iterate_rows(path: Path, name: str | None, start: int) -> Iterator[NDArray[Any]]:
    """Yield rows start, start+1, … in chunks of about CHUNK_BYTES. Raises as `read_header` does."""
    with _opened(path, name) as (file, header):
        row_bytes = math.prod(header.shape[1:]) * header.dtype.itemsize
        file.seek(start * row_bytes, os.SEEK_CUR)
        chunk_rows = max(1, CHUNK_BYTES // row_bytes)
        for first in range(start, header.shape[0], chunk_rows):
            count = min(chunk_rows, header.shape[0] - first)
            data = file.read(count * row_bytes)
            if len(data) < count * row_bytes:
                raise EOFError("it ends too early")
            yield np.frombuffer(data, header.dtype).reshape(count, *header.shape[1:])


def _where(path: Path, name: str | None) -> str:
    return f"{path}: {name}" if name else str(path)


@contextmanager
def _opened(path: Path, name: str | None) -> Iterator[tuple[IO[bytes], ArrayHeader]]:
    """Open an array at its first element."""
    with explain_damage(path, _PROBLEM, _ERRORS), ExitStack() as stack:
        if name is None:
            file: IO[bytes] = stack.enter_context(open(path, "rb"))
        else:
            file = stack.enter_context(stack.enter_context(zipfile.ZipFile(path)).open(f"{name}.npy"))
        read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
        shape, by_columns, dtype = read(file)
        if dtype.hasobject:
            raise UsageError(f"{_where(path, name)} is refused: it holds Python objects, which only a pickle can hold")
        if by_columns and len(shape) > 1:
            raise UsageError(f"{_where(path, name)} is stored by columns: save it with numpy.ascontiguousarray")
        yield file, ArrayHeader(shape, dtype)
