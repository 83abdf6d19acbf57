"""CIFAR-10 as published: the python and the binary version, packed or unpacked.

Format: https://www.cs.toronto.edu/~kriz/cifar.html, "Dataset layout". Python: `cifar-10-batches-py/` with
`data_batch_1`…`5`, `test_batch` (pickled dictionaries with `data`, uint8 [10000, 3072], and `labels`) and
`batches.meta` with `label_names`. Binary: `cifar-10-batches-bin/` with `data_batch_1.bin`…`5`, `test_batch.bin`
(records of one label byte and 3,072 pixel bytes) and `batches.meta.txt`. Pixels are planes of red, green, blue, row by
row. The MD5 are those that the page states.
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from progdistill.data.importers.archives import iterate_archive, read_files
from progdistill.data.importers.common import PublishedFile, check_counts, parts_from, verify_published
from progdistill.data.importers.labels import require_class_name
from progdistill.data.importers.restricted_pickle import load_batch, load_restricted
from progdistill.data.importers.unused import Unused
from progdistill.data.source import Source, SourceFacts, SourceImage
from progdistill.errors import UsageError
from progdistill.escape import one_line

COUNTS: Final = {"train": 50_000, "test": 10_000}
MAX_BATCH_BYTES: Final = 2**27
"""Of a batch file: the published ones have 31 MB."""

RECORD_BYTES: Final = 1 + 3 * 32 * 32
_BATCHES: Final = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}


class Version(NamedTuple):
    """One of the published versions: its folder, archive, suffix of batch files, file of class names."""

    folder: str
    archive: PublishedFile
    suffix: str
    names_file: str


_PYTHON_ARCHIVE: Final = PublishedFile("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")
_BINARY_ARCHIVE: Final = PublishedFile("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")
PYTHON: Final = Version("cifar-10-batches-py", _PYTHON_ARCHIVE, "", "batches.meta")
BINARY: Final = Version("cifar-10-batches-bin", _BINARY_ARCHIVE, ".bin", "batches.meta.txt")


class Cifar10Source(Source):
    """Splits train (50,000) and test (10,000) of 32×32 RGB images in 10 classes."""

    def __init__(self, path: Path, *, unverified: bool) -> None:
        """Open one of the archives, its folder, or the unpacked folder; `unverified` accepts other counts."""
        self._path, unused = path, Unused()
        self._path, self._version = _find(path, unverified)
        self._counts = {split: [len(self._batch(name)[1]) for name in names] for split, names in _BATCHES.items()}
        splits = {split: sum(counts) for split, counts in self._counts.items()}
        if not unverified:
            check_counts(path, splits, COUNTS)
        _name_others(self._path, self._version, unused)
        self.facts = SourceFacts(
            importer="cifar10",
            location=str(self._path),
            description="as published",
            identity={"version": self._version.folder, "counts": dict(splits)},
            channels=3,
            image_size=32,
            class_names=self._class_names(),
            horizontal_flip_safe=True,
            splits=splits,
            labels_from="labels of the batches",
            not_used=unused.lines(),
        )

    def read(self, split: str, start: int = 0) -> Iterator[SourceImage]:
        """See Source. One batch of 10,000 images is in memory at a time."""
        for part, first in parts_from(self._counts[split], start):
            name = _BATCHES[split][part]
            images, labels = self._batch(name)
            for row in range(first, len(labels)):
                yield SourceImage(f"{name}[{row}]", int(labels[row]), images[row])

    def _batch(self, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read a batch file: images, uint8 [count, 32, 32, 3], and labels, int64 [count]."""
        data, where = self._read(name + self._version.suffix), f"{self._path}: {name}"
        if self._version is BINARY:
            if not data or len(data) % RECORD_BYTES:
                raise UsageError(f"{where} is truncated: {len(data)} bytes are not a multiple of {RECORD_BYTES}")
            records = np.frombuffer(data, np.uint8).reshape(-1, RECORD_BYTES)
            planes, labels = records[:, 1:], records[:, 0].astype(np.int64)
        else:
            planes, labels = load_batch(io.BytesIO(data), where)
            if planes.dtype != np.uint8 or planes.shape != (len(labels), 3072):
                raise UsageError(f"{where} is not a CIFAR-10 batch: data is not uint8 [{len(labels)}, 3072]")
        return planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels

    def _class_names(self) -> tuple[str, ...]:
        file = self._version.names_file
        data, where = self._read(file), f"{self._path}: {file}"
        if self._version is BINARY:
            return tuple(data.decode("utf-8", "replace").split())
        meta = load_restricted(io.BytesIO(data), where)
        names = meta.get("label_names") if isinstance(meta, dict) else None
        if not isinstance(names, list):
            raise UsageError(f"{where} is the wrong file: it has no label_names")
        texts = tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names)
        for text in texts:
            require_class_name(where, text)
        return texts

    def _read(self, name: str) -> bytes:
        """Read a published file from the archive or the folder."""
        incomplete = f"{self._path} has no {name}: it is not a complete CIFAR-10; download it again"
        if self._path.is_dir():
            file = self._path / name
            if not file.is_file():
                raise UsageError(incomplete)
            if (size := file.stat().st_size) > MAX_BATCH_BYTES:
                raise UsageError(f"{file} has {size:,} bytes, expected at most {MAX_BATCH_BYTES:,}: download it again")
            return file.read_bytes()
        member = f"{self._version.folder}/{name}"
        found = read_files(self._path, (member,), MAX_BATCH_BYTES)
        if member not in found:
            raise UsageError(incomplete)
        return found[member]


def _find(path: Path, unverified: bool) -> tuple[Path, Version]:
    """Find the archive or the unpacked folder at `path` or in it.

    An archive is compared with the published ones before it is looked into.
    """
    for version in (PYTHON, BINARY):
        for folder in (path, path / version.folder):
            if (folder / version.names_file).is_file():
                return folder, version
        if (path / version.archive.name).is_file():
            return _find(path / version.archive.name, unverified)
    if not path.is_file():
        raise UsageError(f"no CIFAR-10 in {path}: give cifar-10-python.tar.gz, cifar-10-binary.tar.gz or their folder")
    if not unverified:
        version = BINARY if "binary" in path.name else PYTHON
        verify_published([(path, version.archive)])
        return path, version
    names = []
    for file in iterate_archive(path, Unused()):
        names.append(file.folders[0] if file.folders else file.name)
        for version in (PYTHON, BINARY):
            if names[-1] == version.folder:
                return path, version
        if len(names) == 5:
            break
    raise UsageError(
        f"{path} is the wrong archive: it holds {', '.join(sorted(map(one_line, set(names))))}, not CIFAR-10: give"
        f" {PYTHON.archive.name} or {BINARY.archive.name}"
    )


def _name_others(path: Path, version: Version, unused: Unused) -> None:
    """Account for what is not a batch of the version found."""
    used = {version.names_file, *(name + version.suffix for names in _BATCHES.values() for name in names)}
    if path.is_dir():
        names = sorted(os.listdir(path))
    else:
        names = [file.path.removeprefix(f"{version.folder}/") for file in iterate_archive(path, unused)]
    for name in names:
        if name not in used:
            unused.add("no batch", name)
