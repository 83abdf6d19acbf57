"""Images in one numpy file: `.npy` (images alone) or `.npz` (images, classes, splits by key)."""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, Literal, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from progdistill.data.image_names import readable_name
from progdistill.data.importers.common import class_names_up_to, require_class_number
from progdistill.data.source import SourceFacts, SourceImage
from progdistill.errors import UsageError

CHUNK_BYTES: Final = 2**24
_DAMAGED: Final = (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError)


class ArrayHeader(NamedTuple):
    """An array's shape and element type, known before its data is read."""

    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"


def array_names(path: Path) -> tuple[str, ...]:
    """Names of the arrays in an .npz file."""
    with _explained(path), zipfile.ZipFile(path) as archive:
        return tuple(name.removesuffix(".npy") for name in archive.namelist())


def read_header(path: Path, name: str | None) -> ArrayHeader:
    """Header of the array `name` in an .npz file, or of an .npy file (None)."""
    with _explained(path), _opened(path, name) as file:
        return _header(file, path, name)


def read_array(path: Path, name: str) -> NDArray[Any]:
    """A small array, such as labels, as a whole."""
    header = read_header(path, name)
    rows = list(iterate_rows(path, name, 0))
    return np.concatenate(rows) if rows else np.empty(header.shape, header.dtype)


def iterate_rows(path: Path, name: str | None, start: int) -> Iterator[NDArray[Any]]:
    """Yield rows start, start+1, … in chunks of about CHUNK_BYTES.

    Raises UsageError for a truncated or damaged file, an array in column order, and one of Python objects.
    """
    with _explained(path), _opened(path, name) as file:
        header = _header(file, path, name)
        row_bytes = int(np.prod(header.shape[1:])) * header.dtype.itemsize
        _skip(file, start * row_bytes)
        rows_left = header.shape[0] - start
        while rows_left > 0:
            count = min(rows_left, max(1, CHUNK_BYTES // row_bytes))
            data = file.read(count * row_bytes)
            if len(data) < count * row_bytes:
                raise EOFError("it ends too early")
            yield np.frombuffer(data, header.dtype).reshape(count, *header.shape[1:])
            rows_left -= count


def _skip(file: IO[bytes], size: int) -> None:
    while size and (piece := file.read(min(size, CHUNK_BYTES))):
        size -= len(piece)


def _header(file: IO[bytes], path: Path, name: str | None) -> ArrayHeader:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, by_columns, dtype = read(file)
    where = str(path) if name is None else f"{path}: {name}"
    if dtype.hasobject:
        raise UsageError(
            f"{where} is refused: it is an array of Python objects, which only a pickle can hold"
        )
    if by_columns and len(shape) > 1:
        raise UsageError(f"{where} is stored by columns: save it with numpy.ascontiguousarray")
    return ArrayHeader(shape, dtype)


@contextmanager
def _opened(path: Path, name: str | None) -> Iterator[IO[bytes]]:
    if name is None:
        with open(path, "rb") as file:
            yield file
    else:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            yield file


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        raise UsageError(f"{path} is truncated or damaged: {error}") from error


_LAYOUTS: Final = (
    {"train": ("images", "labels")},
    {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")},
    {"train": ("train_images", "train_labels"), "test": ("test_images", "test_labels")},
    {"train": ("data", "labels")},
    {"train": ("arr_0", "arr_1")},
)
"""Keys of images and classes that are understood; the last is what numpy.savez writes without names."""


class _Array(NamedTuple):
    name: str | None
    images: int
    labels: NDArray[np.int64]
    channels_first: bool


class ArraysSource:
    """uint8 images [count, size, size], with channels (1 or 3) last or first."""

    def __init__(self, path: Path, *, horizontal_flip_safe: bool) -> None:
        """Look at the headers and classes. Raises UsageError for keys, shapes or types that are no images."""
        self._path, self._flip_safe = path, horizontal_flip_safe
        keys = {"train": (None, None)} if path.suffix == ".npy" else _keys(path)
        bare = [images for images, labels in keys.values() if labels is None]
        if 0 < len(bare) < len(keys):
            raise UsageError(
                f"{path}: {bare[0]} has no classes, unlike the other images: add them, or save the others"
                " alone"
            )
        shapes = {split: _image_shape(path, images) for split, (images, _) in keys.items()}
        self._size, self._channels, _ = shapes["train"]
        self._arrays = {}
        for split, (images, labels) in keys.items():
            if shapes[split][:2] != shapes["train"][:2]:
                raise UsageError(f"{path}: {images} has images of another shape than the training split")
            count = read_header(path, images).shape[0]
            self._arrays[split] = _Array(images, count, _labels(path, labels, count), shapes[split][2])
        highest = max(int(array.labels.max(initial=0)) for array in self._arrays.values())
        self._class_names = () if bare else class_names_up_to(highest)

    @property
    def facts(self) -> SourceFacts:
        """See Source."""
        facts = self._path.stat()
        return SourceFacts(
            importer="arrays",
            location=str(self._path),
            description="as they are",
            identity={
                "name": readable_name(self._path.name),
                "bytes": facts.st_size,
                "modified_ns": facts.st_mtime_ns,
            },
            channels=self._channels,
            image_size=self._size,
            class_names=self._class_names,
            horizontal_flip_safe=self._flip_safe,
            splits={split: array.images for split, array in self._arrays.items()},
        )

    def verify(self) -> None:
        """See Source: nothing is published of a user's own arrays."""

    def read(self, split: str, start: int) -> Iterator[SourceImage]:
        """See Source."""
        array, row = self._arrays[split], start
        for chunk in iterate_rows(self._path, array.name, start):
            images = chunk.transpose(0, 2, 3, 1) if array.channels_first else chunk
            for image in images:
                pixels = image.reshape(self._size, self._size, self._channels)
                yield SourceImage(f"{array.name or self._path.name}[{row}]", int(array.labels[row]), pixels)
                row += 1


def _keys(path: Path) -> dict[str, tuple[str, str | None]]:
    names = array_names(path)
    for layout in _LAYOUTS:
        if layout["train"][0] in names:
            return {
                split: (images, labels if labels in names else None)
                for split, (images, labels) in layout.items()
                if images in names
            }
    understood = ", ".join(layout["train"][0] for layout in _LAYOUTS)
    raise UsageError(f"{path} has arrays {', '.join(names)}: call the images one of {understood}")


def _image_shape(path: Path, name: str | None) -> tuple[int, Literal[1, 3], bool]:
    """Size, channels, and whether the channels come before height and width."""
    header = read_header(path, name)
    where = f"{path}: {name}" if name else str(path)
    if header.dtype != np.uint8:
        raise UsageError(f"{where} holds {header.dtype}: images are uint8, 0 to 255; scale and convert them")
    if 0 in header.shape:
        raise UsageError(
            f"{where} has shape {list(header.shape)}, without any pixels: save it with its images"
        )
    match header.shape:
        case (_, height, width) if height == width:
            return height, 1, False
        case (_, height, width, 1 | 3 as channels) if height == width:
            return height, channels, False
        case (_, 1 | 3 as channels, height, width) if height == width:
            return height, channels, True
    raise UsageError(
        f"{where} has shape {list(header.shape)}: images are [count, size, size], with 1 or 3 channels"
        " last or first"
    )


def _labels(path: Path, name: str | None, count: int) -> NDArray[np.int64]:
    if name is None:
        return np.zeros(count, np.int64)
    header = read_header(path, name)
    if header.dtype.kind not in "iu" or not header.shape or math.prod(header.shape) != count:
        raise UsageError(
            f"{path}: {name} is {header.dtype} {list(header.shape)}: classes are one whole number an image,"
            f" for {count:,} images"
        )
    labels = read_array(path, name)
    require_class_number(f"{path}: {name}", int(labels.max(initial=0)))
    return labels.reshape(count).astype(np.int64)
