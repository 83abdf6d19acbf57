"""Parquet and Arrow files, read a few rows at a time. What they would expand to is bounded before it is expanded."""

import io
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from progdistill.data.importers.common import explain_damage, head_of_source
from progdistill.errors import UsageError
from progdistill.escape import one_line

PARQUET_SUFFIXES: Final = (".parquet", ".pq", ".parq")
ARROW_SUFFIXES: Final = (".arrow",)

BATCH_ROWS: Final = 64
BUFFER_BYTES: Final = 2**20
"""Read from a column at a time: a row group can be as large as the file."""

MAX_PAGE_BYTES: Final = 2**29
"""Of an uncompressed page of Parquet: a small file can declare gigabytes."""

MAX_TEXT_BYTES: Final = 2**16
"""Of a text in the metadata that is kept, such as a column's name."""

MAX_BATCH_BYTES: Final = 2**27
"""Of a batch of several rows: each row may be as large as a page."""

PROBLEM: Final = "truncated, damaged or not such a file"
ERRORS: Final = (
    *(pa.ArrowException, OSError, EOFError, ValueError, KeyError, IndexError, OverflowError, struct.error),
    *(TypeError, AttributeError),
)


class Table(ABC):
    """A file of rows in groups."""

    path: Path
    schema: pa.Schema
    group_rows: list[int]
    """The number of rows in each group."""

    @abstractmethod
    def batches(self, group: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a group, with only some columns. Raises what `ERRORS` has for a damaged file."""

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(self.group_rows)


def open_table(path: Path) -> Table:
    """Open a file by its name. Raises UsageError for a damaged one."""
    if str(path).encode("utf-8", "replace").decode() != str(path):
        raise UsageError(f"{one_line(str(path))} cannot be opened, since its name is not UTF-8: rename it")
    with explain_damage(path, PROBLEM, ERRORS):
        head_of_source(path)
        table = _ArrowTable(path) if path.suffix.lower() in ARROW_SUFFIXES else _ParquetTable(path)
        str(table.schema)  # Names that are not UTF-8 are errors only when they are looked at.
        return table


class _ParquetTable(Table):
    def __init__(self, path: Path) -> None:
        # By default, all requested columns would be read at once and kept: the whole file.
        self.path, self._file = path, pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES)
        self.schema = self._file.schema_arrow
        metadata = self._file.metadata
        self.group_rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._chunks = _column_chunks(path)

    def batches(self, group: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        largest = self._largest_page(group, columns)
        if largest > MAX_PAGE_BYTES:
            raise UsageError(
                f"{self.path} has a page of {largest:,} bytes, uncompressed, more than {MAX_PAGE_BYTES:,}: write it"
                " again with smaller pages (data_page_size)"
            )
        rows = max(1, min(BATCH_ROWS, MAX_BATCH_BYTES // max(1, largest)))
        yield from self._file.iter_batches(rows, [group], list(columns))

    def _largest_page(self, group: int, columns: Sequence[str]) -> int:
        """The largest uncompressed size that a page of these columns declares."""
        largest = 0
        with open(self.path, "rb") as file:
            for chunk in self._chunks[group]:
                if chunk.column not in columns:
                    continue
                position = chunk.start
                while position < chunk.start + chunk.compressed_bytes:
                    file.seek(position)
                    uncompressed, compressed = _page_sizes(file)
                    position, largest = file.tell() + compressed, max(largest, uncompressed)
        return largest


class _Chunk(NamedTuple):
    """Where the pages of one column of a row group are."""

    column: str
    start: int
    compressed_bytes: int


def _column_chunks(path: Path) -> list[list[_Chunk]]:
    """Read the chunks of each row group from the footer (FileMetaData); pyarrow aborts on some that lie."""
    with open(path, "rb") as file:
        file.seek(-8, os.SEEK_END)
        size = int.from_bytes(file.read(4), "little")
        file.seek(-8 - size, os.SEEK_END)
        footer = _read_struct(io.BytesIO(file.read(size)), 0)
    return [[_chunk(column[3]) for column in group[1]] for group in footer[4]]


def _chunk(facts: dict[int, Any]) -> _Chunk:
    """The facts of a ColumnMetaData that matter here."""
    starts = [start for start in (facts[9], facts.get(11)) if start]  # data pages, and the dictionary
    return _Chunk(facts[3][0].decode("utf-8", "replace"), min(starts), facts[7])


def _page_sizes(file: IO[bytes]) -> tuple[int, int]:
    """Read a PageHeader (parquet.thrift, compact protocol): the uncompressed and the compressed size of the page."""
    fields = _read_struct(file, 0)
    uncompressed, compressed = fields.get(2, -1), fields.get(3, -1)
    if uncompressed < 0 or compressed < 0:
        raise ValueError("a page has no size")
    return uncompressed, compressed


def _read_struct(file: IO[bytes], depth: int) -> dict[int, Any]:
    """Read the fields of a struct by number; long texts are skipped."""
    if depth > 8:
        raise ValueError("its metadata is nested too deeply")
    fields, number = dict[int, Any](), 0
    while (head := _byte(file)) != 0:
        kind, step = head & 15, head >> 4
        number = number + step if step else _zigzag(file)
        fields[number] = _read_value(file, kind, depth)
    return fields


def _read_value(file: IO[bytes], kind: int, depth: int) -> Any:
    if kind in (1, 2):  # true and false, in the head
        return kind
    if kind == 3:
        return _byte(file)
    if kind in (4, 5, 6):
        return _zigzag(file)
    if kind == 7:  # a double
        return file.read(8)
    if kind == 8:
        length = _varint(file)
        return file.read(length) if length <= MAX_TEXT_BYTES else file.seek(length, 1)
    if kind in (9, 10):  # a list or set
        head = _byte(file)
        size, inner = (_varint(file) if head >> 4 == 15 else head >> 4), head & 15
        return [_byte(file) if inner in (1, 2) else _read_value(file, inner, depth + 1) for _ in range(size)]
    if kind == 12:
        return _read_struct(file, depth + 1)
    raise ValueError("its metadata has what Parquet does not define")


def _zigzag(file: IO[bytes]) -> int:
    value = _varint(file)
    return value >> 1 ^ -(value & 1)


def _varint(file: IO[bytes]) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = _byte(file)
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise ValueError("its metadata has an endless number")


def _byte(file: IO[bytes]) -> int:
    if not (data := file.read(1)):
        raise EOFError("it ends within its metadata")
    return data[0]


class _ArrowTable(Table):
    """Arrow's IPC format, as a stream (as the library `datasets` saves it) or as a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with pa.memory_map(str(path)) as file:
            messages = self._messages(file)
            self.schema = pa.ipc.read_schema(next(messages))
            self.group_rows = [pa.ipc.read_record_batch(message, self.schema).num_rows for message in messages]

    def batches(self, group: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with pa.memory_map(str(self.path)) as file:
            messages = self._messages(file)
            schema = pa.ipc.read_schema(next(messages))
            for number, message in enumerate(messages):
                if number == group:
                    batch = pa.ipc.read_record_batch(message, schema).select(list(columns))
                    batch.validate(full=True)
                    for start in range(0, len(batch), BATCH_ROWS):
                        yield batch.slice(start, BATCH_ROWS)
                    return

    def _messages(self, file: Any) -> Iterator[pa.ipc.Message]:
        if file.read(6) == b"ARROW1":
            file.seek(8)
        else:
            file.seek(0)
        for message in pa.ipc.MessageReader.open_stream(file):
            if message.type == "dictionary batch":
                raise UsageError(f"{self.path} has dictionaries, which are not read: save it as Parquet")
            if message.type == "record batch" and _is_compressed(message.metadata.to_pybytes()):
                raise UsageError(f"{self.path} is compressed: save it uncompressed, or as Parquet")
            yield message


def _is_compressed(metadata: bytes) -> bool:
    """Whether a Message (Arrow's Message.fbs, a flatbuffer) has a RecordBatch with compressed buffers."""
    (message,) = struct.unpack_from("<I", metadata)
    header = _field(metadata, message, 2)
    (batch,) = struct.unpack_from("<I", metadata, header)
    return _field(metadata, header + batch, 3) != 0


def _field(metadata: bytes, table: int, number: int) -> int:
    """The position of a field of a flatbuffer's table; 0 if it is not there."""
    (back,) = struct.unpack_from("<i", metadata, table)
    (size,) = struct.unpack_from("<H", metadata, table - back)
    if 4 + 2 * number >= size:
        return 0
    (offset,) = struct.unpack_from("<H", metadata, table - back + 4 + 2 * number)
    return table + offset if offset else 0
