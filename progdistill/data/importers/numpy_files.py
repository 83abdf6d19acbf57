"""Reads numpy's files, `.npy` and `.npz`, in pieces. What their headers declare is checked before it is believed."""

import io
import math
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from progdistill.data.importers.common import explain_damage
from progdistill.errors import UsageError
from progdistill.escape import one_line

CHUNK_BYTES: Final = 2**24

MAX_HEADER_BYTES: Final = 10_000
"""Of an array; numpy's own limit."""

MAX_LABELS: Final = 50_000_000
"""An array of labels is held in memory as a whole."""

MAX_LABEL_BYTES: Final = 2**31

PROBLEM: Final = "truncated or damaged"
ERRORS: Final = (
    *(zipfile.BadZipFile, OSError, EOFError, ValueError, KeyError, IndexError, NotImplementedError),
    *(RuntimeError, zlib.error, OverflowError, MemoryError),
)


class ArrayHeader(NamedTuple):
    """Shape and element type of an array."""

    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"


def array_names(path: Path) -> list[str]:
    """The names of the arrays in an .npz file or a folder of .npy files. Raises UsageError for a damaged file."""
    if path.is_dir():
        return [name.removesuffix(".npy") for name in sorted(os.listdir(path)) if is_array_name(name)]
    with explain_damage(path, PROBLEM, ERRORS), zipfile.ZipFile(path) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        shown = ", ".join(map(one_line, repeated[:3]))
        raise UsageError(f"{path} has several arrays of one name ({shown}): save it again")
    return [name.removesuffix(".npy") for name in names]


def is_array_name(name: str) -> bool:
    """Whether a file of this name is one of a folder's arrays."""
    return name.endswith(".npy") and not name.startswith(".")


def read_header(path: Path, name: str | None) -> ArrayHeader:
    """Read the header of the array `name` in an .npz file or a folder of .npy files, or of an .npy file (None).

    Raises UsageError if the file is damaged, or the array is of Python objects or in column order.
    """
    with _opened(path, name) as (_, header):
        return header


def read_labels(path: Path, name: str | None) -> NDArray[Any]:
    """Read an array of labels as a whole. Raises as `read_header`, and UsageError for more than MAX_LABELS."""
    with _opened(path, name) as (file, header):
        size = math.prod(header.shape) * header.dtype.itemsize
        if math.prod(header.shape) > MAX_LABELS or size > MAX_LABEL_BYTES:
            raise UsageError(f"{where_in(path, name)} has {list(header.shape)} labels, more than {MAX_LABELS:,}")
        data = file.read(size)
        if len(data) < size:
            raise EOFError("it ends too early")
        return np.frombuffer(data, header.dtype).reshape(header.shape)


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


def where_in(path: Path, name: str | None) -> str:
    """The array in a file, for messages."""
    return f"{path}: {name}" if name else str(path)


@contextmanager
def _opened(path: Path, name: str | None) -> Iterator[tuple[IO[bytes], ArrayHeader]]:
    """Open an array at its first element."""
    with explain_damage(path, PROBLEM, ERRORS), ExitStack() as stack:
        if name is None or path.is_dir():
            alone = path if name is None else path / f"{name}.npy"
            if not alone.is_file():
                raise UsageError(f"{alone} is not a file")
            file: IO[bytes] = stack.enter_context(open(alone, "rb"))
            size = alone.stat().st_size
        else:
            archive = stack.enter_context(zipfile.ZipFile(path))
            info = archive.getinfo(f"{name}.npy")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UsageError(f"{where_in(path, name)} is compressed in a way that numpy does not write: save again")
            file, size = stack.enter_context(archive.open(info)), info.file_size
        shape, by_columns, dtype = _parse_header(file)
        if dtype.hasobject:
            raise UsageError(
                f"{where_in(path, name)} is refused: it holds Python objects, which only a pickle can hold"
            )
        if by_columns and len(shape) > 1:
            raise UsageError(f"{where_in(path, name)} is stored by columns: save it with numpy.ascontiguousarray")
        if math.prod(shape) * dtype.itemsize > size:
            raise EOFError(f"it ends too early: {list(shape)} values of {dtype} are not in {size:,} bytes")
        yield file, ArrayHeader(shape, dtype)


def _parse_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, "np.dtype[Any]"]:
    """Read a header as numpy does, which believes its length and lets errors of Python's parser through."""
    version = npy.read_magic(file)
    width = 2 if version == (1, 0) else 4
    length = file.read(width)
    size = int.from_bytes(length, "little")
    if size > MAX_HEADER_BYTES:
        raise ValueError(f"its header has {size:,} bytes")
    header = io.BytesIO(length + file.read(size))
    try:
        shape, by_columns, dtype = (npy.read_array_header_1_0 if width == 2 else npy.read_array_header_2_0)(header)
    except Exception as error:  # A damaged header raises almost anything.
        raise ValueError(f"its header is no array's: {str(error).partition(chr(10))[0]}") from error
    if any(length < 0 for length in shape):
        raise ValueError(f"its shape is {list(shape)}")
    return shape, by_columns, dtype
