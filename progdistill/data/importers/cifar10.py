"""CIFAR-10 as published: the python and the binary version, packed or unpacked.

Format: https://www.cs.toronto.edu/~kriz/cifar.html, "Dataset layout". Python: `cifar-10-batches-py/` with
`data_batch_1`…`5`, `test_batch` (pickled dictionaries with `data`, uint8 [10000, 3072], and `labels`) and
`batches.meta` with `label_names`. Binary: `cifar-10-batches-bin/` with `data_batch_1.bin`…`5`,
`test_batch.bin` (records of one label byte and 3,072 pixel bytes) and `batches.meta.txt`. Pixels are planes
of red, green, blue, row by row. The MD5 are those that the page states.
"""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from progdistill.data.importers.published import PublishedFile, check_counts, verify_published
from progdistill.data.importers.restricted_pickle import load_restricted
from progdistill.data.source import SourceFacts, SourceImage
from progdistill.errors import UsageError

COUNTS: Final = {"train": 50_000, "test": 10_000}
RECORD_BYTES: Final = 1 + 3 * 32 * 32


class Version(NamedTuple):
    """One of the two published versions: its folder, its archive, and how its files are called."""

    folder: str
    archive: PublishedFile
    suffix: str
    names_file: str


PYTHON: Final = Version(
    "cifar-10-batches-py",
    PublishedFile("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
    "",
    "batches.meta",
)
BINARY: Final = Version(
    "cifar-10-batches-bin",
    PublishedFile("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
    ".bin",
    "batches.meta.txt",
)

_BATCHES: Final = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}


class Cifar10Source:
    """Splits train (50,000) and test (10,000) of 32×32 RGB images in 10 classes."""

    def __init__(self, path: Path, *, unverified: bool) -> None:
        """`path`: one of the archives, the folder it is in, or the unpacked folder.

        Raises UsageError for another archive, a truncated one and, unless `unverified`, other counts.
        """
        self._files = _BatchFiles(path)
        self._class_names = self._read_class_names()
        self._counts = {
            split: sum(len(self._batch(name)[1]) for name in names) for split, names in _BATCHES.items()
        }
        self._unverified = unverified
        if not unverified:
            check_counts(path, self._counts, COUNTS)

    @property
    def facts(self) -> SourceFacts:
        """See Source."""
        return SourceFacts(
            importer="cifar10",
            location=str(self._files.path),
            description="as published",
            identity={"version": self._files.version.folder, "counts": dict(self._counts)},
            channels=3,
            image_size=32,
            class_names=self._class_names,
            horizontal_flip_safe=True,
            splits=self._counts,
        )

    def verify(self) -> None:
        """See Source: an archive is compared with its published MD5."""
        if self._files.path.is_file() and not self._unverified:
            verify_published([(self._files.path, self._files.version.archive)])

    def read(self, split: str, start: int) -> Iterator[SourceImage]:
        """See Source. One batch of 10,000 images is in memory at a time."""
        passed = 0
        for name in _BATCHES[split]:
            pixels, labels = self._batch(name)
            for row in range(max(0, start - passed), len(labels)):
                yield SourceImage(f"{name}[{row}]", int(labels[row]), pixels[row])
            passed += len(labels)

    def _batch(self, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Images uint8 [count, 32, 32, 3] and labels int64 [count] of a batch file."""
        version, where = self._files.version, f"{self._files.path}: {name}"
        data = self._files.read(name + version.suffix)
        planes, labels = _parse_binary(data, where) if version.suffix else _parse_pickle(data, where)
        return planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels

    def _read_class_names(self) -> tuple[str, ...]:
        names_file = self._files.version.names_file
        data = self._files.read(names_file)
        if self._files.version.suffix:
            return tuple(data.decode("utf-8", "replace").split())
        meta = load_restricted(io.BytesIO(data), f"{self._files.path}: {names_file}")
        return tuple(_text(name) for name in _field(meta, "label_names", names_file))


class _BatchFiles:
    """The published files by name, in an archive or a folder."""

    def __init__(self, path: Path) -> None:
        self.path, self.version = _located(path)

    def read(self, name: str) -> bytes:
        if self.path.is_dir():
            file = self.path / name
            if not file.is_file():
                raise UsageError(f"{self.path} has no {name}: it is not all of CIFAR-10")
            return file.read_bytes()
        try:
            with tarfile.open(self.path) as archive:
                member = archive.extractfile(f"{self.version.folder}/{name}")
                assert member is not None, name
                return member.read()
        except KeyError as error:
            raise UsageError(
                f"{self.path} has no {self.version.folder}/{name}: not all of CIFAR-10"
            ) from error
        except (tarfile.TarError, EOFError, OSError) as error:
            raise UsageError(f"{self.path} is truncated or damaged ({error}): download it again") from error


def _located(path: Path) -> tuple[Path, Version]:
    """The archive or the unpacked folder at `path` or in it, and which version it is."""
    for version in (PYTHON, BINARY):
        for folder in (path, path / version.folder):
            if (folder / version.names_file).is_file():
                return folder, version
    for version in (PYTHON, BINARY):
        if (path / version.archive.name).is_file():
            return path / version.archive.name, version
    if not path.is_file():
        raise UsageError(
            f"no CIFAR-10 in {path}: give cifar-10-python.tar.gz, cifar-10-binary.tar.gz or their folder"
        )
    return path, _version_of_archive(path)


def _version_of_archive(path: Path) -> Version:
    try:
        with tarfile.open(path) as archive:
            names = {member.name.partition("/")[0] for member in archive}
    except (tarfile.TarError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise UsageError(f"{path} is truncated or no archive ({reason}): download it again") from error
    for version in (PYTHON, BINARY):
        if version.folder in names:
            return version
    raise UsageError(
        f"{path} is the wrong archive: it holds {', '.join(sorted(names)[:5])}, not CIFAR-10: give"
        f" {PYTHON.archive.name} or {BINARY.archive.name}"
    )


def _parse_binary(data: bytes, where: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if not data or len(data) % RECORD_BYTES:
        raise UsageError(f"{where} is truncated: {len(data):,} bytes are no multiple of {RECORD_BYTES:,}")
    records = np.frombuffer(data, np.uint8).reshape(-1, RECORD_BYTES)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _parse_pickle(data: bytes, where: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    batch = load_restricted(io.BytesIO(data), where)
    planes, labels = _field(batch, "data", where), np.asarray(_field(batch, "labels", where), np.int64)
    if not isinstance(planes, np.ndarray) or planes.dtype != np.uint8 or planes.shape != (len(labels), 3072):
        raise UsageError(f"{where} is no batch of CIFAR-10: its data is not uint8 [{len(labels)}, 3072]")
    return planes, labels


def _field(batch: object, key: str, where: str) -> Any:
    """A dictionary's entry under a text key, which Python 2 wrote as bytes."""
    if isinstance(batch, dict):
        for found in (key, key.encode()):
            if found in batch:
                return batch[found]
    raise UsageError(f"{where} is the wrong file: it has no {key!r}")


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
