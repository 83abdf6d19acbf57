"""LSUN scenes as published: one LMDB database per category and split, with a JPEG or WebP file per key.

Format: https://github.com/fyu/lsun: `bedroom_train_lmdb.zip` unpacks to `bedroom_train_lmdb/data.mdb` (and `lock.mdb`);
keys are 40 hexadecimal digits, values are encoded images whose smaller side is 256 pixels.
"""

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Final

from progdistill.data.importers import lmdb_reader
from progdistill.data.importers.common import check_counts, native_size
from progdistill.data.importers.files import MAX_FILE_BYTES, is_hidden
from progdistill.data.importers.unused import Unused
from progdistill.data.preprocess import Preprocessing, decode_image
from progdistill.data.source import Pixels, Source, SourceFacts, SourceImage, UnreadableImageError
from progdistill.errors import UsageError
from progdistill.escape import one_line

COUNTS: Final = {
    "bedroom": {"train": 3_033_042, "validation": 300},
    "church_outdoor": {"train": 126_227, "validation": 300},
}
"""Images of each category, as the dataset's page and its downloads have them."""


class LsunSource(Source):
    """Splits train and, if present, validation of one category, in the order of keys; no classes."""

    def __init__(self, path: Path, category: str, preprocessing: Preprocessing, *, unverified: bool) -> None:
        """Open the folder that holds `<category>_train_lmdb`, or that folder; `unverified` accepts other counts."""
        unused = Unused()
        self._preprocessing, self._databases = preprocessing, _find_databases(path, category, unused)
        splits = {}
        for split, database in self._databases.items():
            with _reading(database, 0) as (count, _):
                splits[split] = count
        if not unverified:
            check_counts(path, splits, COUNTS[category])
        self.facts = SourceFacts(
            importer="lsun",
            location=str(path),
            description=preprocessing.describe(),
            identity={
                "category": category,
                "sizes": {split: (database / "data.mdb").stat().st_size for split, database in self._databases.items()},
                "counts": dict(splits),
                "preprocessing": preprocessing.model_dump(mode="json"),
            },
            channels=preprocessing.channels,
            image_size=preprocessing.image_size or native_size(self.read("train"), str(path)),
            class_names=(),
            horizontal_flip_safe=True,
            splits=splits,
            not_used=unused.lines(),
        )

    def read(self, split: str, start: int = 0) -> Iterator[SourceImage]:
        with _reading(self._databases[split], start) as (_, entries):
            for key, value in entries:
                name = f"{split}/{one_line(os.fsdecode(key))}"
                yield SourceImage(name, 0, partial(_decode, value, self._preprocessing))


def _decode(value: bytes | None, preprocessing: Preprocessing) -> Pixels:
    if value is None:
        raise UnreadableImageError(f"it has more than {MAX_FILE_BYTES:,} bytes")
    return decode_image(value, preprocessing)


def _find_databases(path: Path, category: str, unused: Unused) -> dict[str, Path]:
    if (path / "data.mdb").is_file():
        _name_others(path, {"data.mdb", "lock.mdb"}, unused)
        return {"train": path}
    folders = {"train": path / f"{category}_train_lmdb", "validation": path / f"{category}_val_lmdb"}
    found = {split: folder for split, folder in folders.items() if (folder / "data.mdb").is_file()}
    if "train" not in found:
        raise UsageError(f"{path} has no {category}_train_lmdb/data.mdb: unpack {category}_train_lmdb.zip there first")
    _name_others(path, {folder.name for folder in found.values()}, unused)
    return found


def _name_others(folder: Path, used: set[str], unused: Unused) -> None:
    for name in sorted(os.listdir(folder)):
        if name not in used:
            unused.add("hidden" if is_hidden(name) else "no database of the category", name)


Entries = Iterator[tuple[bytes, bytes | None]]
"""Keys and values; None for a value that is too large."""


@contextmanager
def _reading(folder: Path, skip: int) -> Iterator[tuple[int, Entries]]:
    """Yield the number of entries of a database, and the entries after the first `skip`.

    They come from a process of its own: see `lmdb_reader`. Raises UsageError for a damaged database.
    """
    command = [sys.executable, "-I", lmdb_reader.__file__, str(folder), str(MAX_FILE_BYTES), str(skip)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            (count,) = struct.unpack("<Q", _exactly(process, folder, 8))
            yield count, _entries(process, folder, count - skip)
        finally:
            process.kill()


def _entries(process: "subprocess.Popen[bytes]", folder: Path, count: int) -> Entries:
    for _ in range(count):
        key_length, length = struct.unpack("<IQ", _exactly(process, folder, 12))
        key = _exactly(process, folder, key_length)
        yield key, None if length > MAX_FILE_BYTES else _exactly(process, folder, length)
    if process.wait() != 0:
        raise _damaged(process, folder)


def _exactly(process: "subprocess.Popen[bytes]", folder: Path, count: int) -> bytes:
    stdout: IO[bytes] | None = process.stdout
    assert stdout is not None
    data = stdout.read(count)
    if len(data) < count:
        raise _damaged(process, folder)
    return data


def _damaged(process: "subprocess.Popen[bytes]", folder: Path) -> UsageError:
    """The error for a reader that ended too early."""
    assert process.stderr is not None
    status, reason = process.wait(), process.stderr.read().decode("utf-8", "replace").strip()
    if status == 2:
        return UsageError(reason)
    if status < 0:
        reason = f"its pages are damaged: reading ended with {signal.Signals(-status).name}"
    reason = reason.partition("\n")[0] or "it has fewer entries than it says"
    return UsageError(f"{folder} is truncated or not an LMDB database ({reason}): copy or download it again")
