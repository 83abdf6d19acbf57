"""Downsampled ImageNet as published: ten training batches and a validation batch, in npz or in older pickles.

Format: https://patrykchrabaszcz.github.io/Imagenet32/ and the script that wrote it (Chrabaszcz, Loshchilov,
Hutter, arXiv:1707.08819; image2numpy_imagenet_train.py of PatrykChrabaszcz/Imagenet32_Scripts): `data` is
uint8 [count, 3·size²], planes of red, green, blue row by row; `labels` count from 1 in the order of
map_clsloc.txt; `mean` is the mean training image. `Imagenet64_train_part1_npz.zip` unpacks to
train_data_batch_1.npz … 5.npz, the second part to 6 … 10, `Imagenet64_val_npz.zip` to val_data.npz; the
pickles have no suffix.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from progdistill.data.importers.arrays import iterate_rows, read_array, read_header
from progdistill.data.importers.published import check_counts
from progdistill.data.importers.restricted_pickle import load_restricted
from progdistill.data.source import SourceFacts, SourceImage
from progdistill.errors import UsageError

CLASSES: Final = 1000
COUNTS: Final = {"train": 1_281_167, "validation": 50_000}
CLASS_NAMES_FILE: Final = "map_clsloc.txt"


class _Batch(NamedTuple):
    path: Path
    images: int
    image_size: int


class ImageNetBatchesSource:
    """Splits train (1,281,167) and, if it is there, validation (50,000): RGB images in 1,000 classes."""

    def __init__(self, folder: Path, image_size: int, *, unverified: bool) -> None:
        """`folder`: where the batches are, at any depth.

        Raises UsageError for missing or damaged batches, those of another size and, unless `unverified`,
        other counts than published.
        """
        self._folder, self._image_size = folder, image_size
        files = find_batches(folder)
        if "train" not in files:
            raise UsageError(f"{folder} has no train_data_batch_1.npz … train_data_batch_10.npz")
        self._batches = {split: [_described(path) for path in paths] for split, paths in files.items()}
        for batch in (batch for batches in self._batches.values() for batch in batches):
            if batch.image_size != image_size:
                raise UsageError(
                    f"{batch.path} is the wrong file: its images are {batch.image_size}×{batch.image_size},"
                    f" not {image_size}×{image_size}"
                )
        self._counts = {
            split: sum(batch.images for batch in batches) for split, batches in self._batches.items()
        }
        if not unverified:
            check_counts(folder, self._counts, COUNTS)

    @property
    def facts(self) -> SourceFacts:
        """See Source."""
        return SourceFacts(
            importer="imagenet_batches",
            location=str(self._folder),
            description=f"as published, {self._image_size}×{self._image_size}",
            identity={
                "files": [
                    [batch.path.name, batch.images] for batches in self._batches.values() for batch in batches
                ]
            },
            channels=3,
            image_size=self._image_size,
            class_names=_class_names(self._folder),
            horizontal_flip_safe=True,
            splits=self._counts,
        )

    def verify(self) -> None:
        """See Source: no checksum of these files is published; npz files carry their own."""

    def read(self, split: str, start: int) -> Iterator[SourceImage]:
        """See Source. An npz file is read row by row; an older pickle is in memory while it is read."""
        passed = 0
        for batch in self._batches[split]:
            row = max(0, start - passed)
            passed += batch.images
            if row < batch.images:
                labels, chunks = _rows(batch.path, row)
                for planes in chunks:
                    images = planes.reshape(-1, 3, batch.image_size, batch.image_size).transpose(0, 2, 3, 1)
                    for pixels in images:
                        yield SourceImage(f"{batch.path.name}[{row}]", int(labels[row]) - 1, pixels)
                        row += 1


def find_batches(folder: Path) -> dict[str, list[Path]]:
    """The batch files of each split under a folder, in the order of their numbers."""
    found: dict[str, dict[int, Path]] = {}
    for path in sorted(folder.rglob("*")):
        stem = path.name.removesuffix(".npz")
        number = stem.removeprefix("train_data_batch_")
        if stem == "val_data" and path.is_file():
            found.setdefault("validation", {})[0] = path
        elif stem != number and number.isdigit() and path.is_file():
            found.setdefault("train", {})[int(number)] = path
    return {split: [paths[number] for number in sorted(paths)] for split, paths in sorted(found.items())}


def _described(path: Path) -> _Batch:
    if path.suffix == ".npz":
        data = read_header(path, "data")
        shape, dtype, labels = data.shape, data.dtype, read_array(path, "labels")
    else:
        planes, labels = _unpickled(path)
        shape, dtype = planes.shape, planes.dtype
    size = math.isqrt(shape[1] // 3) if len(shape) == 2 else 0
    if dtype != np.uint8 or shape != (len(labels), 3 * size * size):
        raise UsageError(
            f"{path} is the wrong file: its data is {dtype} {list(shape)} beside {len(labels)} labels, not"
            " uint8 [count, 3·size²]"
        )
    return _Batch(path, len(labels), size)


def _rows(path: Path, start: int) -> tuple[NDArray[np.int64], Iterator[NDArray[np.uint8]]]:
    """All labels of a batch, and its rows from `start` on."""
    if path.suffix == ".npz":
        return read_array(path, "labels").astype(np.int64), iterate_rows(path, "data", start)
    planes, labels = _unpickled(path)
    return labels, iter([planes[start:]])


def _unpickled(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    with open(path, "rb") as file:
        loaded = load_restricted(file, str(path))
    batch: dict[Any, Any] = loaded if isinstance(loaded, dict) else {}
    planes, labels = (batch.get(key, batch.get(key.encode())) for key in ("data", "labels"))
    if not isinstance(planes, np.ndarray) or not isinstance(labels, list | np.ndarray):
        raise UsageError(f"{path} is the wrong file: it has no arrays data and labels")
    return planes, np.asarray(labels, np.int64)


def _class_names(folder: Path) -> tuple[str, ...]:
    """Names from map_clsloc.txt of ImageNet's development kit if it is there, else the published numbers."""
    names = {number: str(number) for number in range(1, CLASSES + 1)}
    for path in folder.rglob(CLASS_NAMES_FILE):
        for line in path.read_text().splitlines():
            _, number, name = line.split()
            names[int(number)] = name
    return tuple(names[number] for number in range(1, CLASSES + 1))
