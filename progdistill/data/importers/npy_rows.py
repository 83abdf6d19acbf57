"""Reads arrays in .npy and .npz files row by row, so that a file of any size takes the memory of a few rows.

Format: numpy.lib.format ("NEP 1"); an .npz is a zip archive of .npy members, stored or deflated.
"""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

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
