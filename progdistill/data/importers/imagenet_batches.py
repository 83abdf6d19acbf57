"""Downsampled ImageNet as published: ten training batches and a validation batch, in npz or in older pickles.

Format: https://patrykchrabaszcz.github.io/Imagenet32/ and the script that wrote it (Chrabaszcz, Loshchilov, Hutter,
arXiv:1707.08819; image2numpy_imagenet_train.py of PatrykChrabaszcz/Imagenet32_Scripts): `data` is uint8
[count, 3·size²], planes of red, green, blue row by row; `labels` count from 1 in the order of map_clsloc.txt; `mean` is
the mean training image. `Imagenet64_train_part1_npz.zip` unpacks to train_data_batch_1.npz … 5.npz, the second part to
6 … 10, `Imagenet64_val_npz.zip` to val_data.npz; the pickles have no suffix.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from progdistill.data.importers.common import check_counts, parts_from
from progdistill.data.importers.files import read_file, walk
from progdistill.data.importers.imagenet import COUNTS
from progdistill.data.importers.labels import require_class_name
from progdistill.data.importers.numpy_files import array_names, iterate_rows, read_header, read_labels
from progdistill.data.importers.restricted_pickle import load_batch
from progdistill.data.importers.unused import Unused
from progdistill.data.source import Source, SourceFacts, SourceImage, UnreadableImageError
from progdistill.errors import UsageError

CLASSES: Final = 1000

NAMES_FILE: Final = "map_clsloc.txt"
MAX_NAMES_BYTES: Final = 2**20


class ImageNetBatchesSource(Source):
    """Splits train (1,281,167) and, if present, validation (50,000): RGB images in 1,000 classes."""

    def __init__(self, folder: Path, image_size: int, *, unverified: bool) -> None:
        """Find the batches in a folder, at any depth; `unverified` accepts other counts than the published ones."""
        self._size, unused = image_size, Unused()
        files = find_batches(folder, unused)
        if "train" not in files:
            raise UsageError(f"{folder} has no train_data_batch_1.npz … train_data_batch_10.npz")
        self._batches = {
            split: [(path, _count_images(path, image_size)) for path in paths] for split, paths in files.items()
        }
        splits = {split: sum(count for _, count in batches) for split, batches in self._batches.items()}
        if not unverified:
            check_counts(folder, splits, COUNTS)
        self.facts = SourceFacts(
            importer="imagenet_batches",
            location=str(folder),
            description=f"as published, {image_size}×{image_size}",
            identity={"files": [[path.name, count] for batches in self._batches.values() for path, count in batches]},
            channels=3,
            image_size=image_size,
            class_names=_class_names(folder),
            horizontal_flip_safe=True,
            splits=splits,
            labels_from="labels of the batches",
            not_used=unused.lines(),
        )

    def read(self, split: str, start: int = 0) -> Iterator[SourceImage]:
        """See Source. An npz file is read row by row; an older pickle is read whole."""
        batches = self._batches[split]
        for part, row in parts_from([count for _, count in batches], start):
            path, _ = batches[part]
            labels, chunks = _read_rows(path, row)
            for planes in chunks:
                for pixels in planes.reshape(-1, 3, self._size, self._size).transpose(0, 2, 3, 1):
                    yield SourceImage(f"{path.name}[{row}]", int(labels[row]) - 1, pixels)
                    row += 1


def find_batches(folder: Path, unused: Unused) -> dict[str, list[Path]]:
    """Return the batch files of each split under a folder, in the order of their numbers.

    Raises UsageError if one is there twice.
    """
    found: dict[str, dict[int, Path]] = {}
    for file in walk(folder, unused):
        path, stem = folder.joinpath(*file.folders, file.name), file.name.removesuffix(".npz")
        number = stem.removeprefix("train_data_batch_")
        if stem == "val_data":
            batch = ("validation", 0)
        elif stem != number and number.isascii() and number.isdigit() and len(number) < 10:
            batch = ("train", int(number))
        else:
            if file.name != NAMES_FILE:
                unused.add("no batch", file.path)
            continue
        if (other := found.setdefault(batch[0], {}).setdefault(batch[1], path)) != path:
            raise UsageError(f"{folder} has the same batch twice, {other} and {path}: move one of them away")
        for name in array_names(path) if path.suffix == ".npz" else ():
            if name not in ("data", "labels"):
                unused.add("array", name, once=True)
    return {split: [paths[number] for number in sorted(paths)] for split, paths in sorted(found.items())}


def _count_images(path: Path, image_size: int) -> int:
    """Return the number of images in a batch file after checking its shapes."""
    data: Any
    if path.suffix == ".npz":
        data, labels = read_header(path, "data"), read_labels(path, "labels")
    else:
        data, labels = _load_pickle(path)
    size = math.isqrt(data.shape[1] // 3) if len(data.shape) == 2 else 0
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise UsageError(f"{path} is the wrong file: labels are {labels.dtype} {list(labels.shape)}")
    if data.dtype != np.uint8 or data.shape != (len(labels), 3 * size * size):
        raise UsageError(f"{path} is the wrong file: data is {data.dtype} {list(data.shape)}, labels are {len(labels)}")
    if size != image_size:
        raise UsageError(f"{path} is the wrong file: its images are {size}×{size}, not {image_size}×{image_size}")
    return len(labels)


def _read_rows(path: Path, start: int) -> tuple[NDArray[np.int64], Iterator[NDArray[np.uint8]]]:
    """Return all labels of a batch, and its rows from `start` on."""
    if path.suffix == ".npz":
        return read_labels(path, "labels").astype(np.int64), iterate_rows(path, "data", start)
    planes, labels = _load_pickle(path)
    return labels, iter([planes[start:]])


def _load_pickle(path: Path) -> tuple[NDArray[Any], NDArray[np.int64]]:
    with open(path, "rb") as file:
        return load_batch(file, str(path))


def _class_names(folder: Path) -> tuple[str, ...]:
    """Return the names in map_clsloc.txt of ImageNet's development kit if present, or the numbers."""
    names = {number: str(number) for number in range(1, CLASSES + 1)}
    for path in sorted(folder.rglob(NAMES_FILE)):
        try:
            for line in read_file(path, MAX_NAMES_BYTES).decode("utf-8").splitlines():
                _, number, name = line.split()
                require_class_name(str(path), name)
                names[int(number)] = name
        except (ValueError, UnreadableImageError) as error:
            raise UsageError(f"{path} is not ImageNet's ({error}): correct it, or move it away") from error
    return tuple(names[number] for number in range(1, CLASSES + 1))
