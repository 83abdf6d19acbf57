"""Prepared datasets for tests: from any source, and one in small shards whose images encode their numbers."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from progdistill.data import loader, shards
from progdistill.data.dataset import DatasetInfo, find_dataset, info_of
from progdistill.data.importers.arrays import ArraysSource
from progdistill.data.loader import Batch, TrainingLoader
from progdistill.data.prepare import prepare
from progdistill.data.reading import read_split
from progdistill.data.source import Source

ROWS_PER_SHARD = 50
CLASSES = 10
SHAPE = (2, 2, 1)

Rows = list[tuple[int, bytes]]


def prepared(source: Source, folder: Path, name: str = "mine") -> DatasetInfo:
    """Prepare a source in a folder of that name."""
    out = str(folder / name)
    return info_of(prepare(source, name, out, staging_root=folder), out)


def rows(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Rows:
    """Sort images with their labels, so that two sets can be compared."""
    return sorted((int(label), image.tobytes()) for image, label in zip(images, labels, strict=True))


def stored(info: DatasetInfo, split: str = "train") -> Rows:
    """The stored images of a split."""
    return rows(*read_split(info, split))


def numbered_dataset(folder: Path, count: int, out: str | None = None) -> DatasetInfo:
    """`count` images of 2×2 that hold their number in two pixels, sorted by class, 50 a shard.

    A mirrored image has its number in the other column.
    """
    number = np.arange(count)
    images = np.zeros((count, *SHAPE), np.uint8)
    images[:, 0, 0, 0], images[:, 1, 0, 0] = number >> 8, number & 255
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{count}.npz"
    if not file.exists():
        np.savez(file, images=images, labels=number * CLASSES // count)
    source = ArraysSource(file, horizontal_flip_safe=True)
    location = out or str(folder / "numbered")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shards, "SHARD_BYTES", ROWS_PER_SHARD * int(np.prod(SHAPE)))
        prepare(source, "numbered", location, staging_root=folder)
    return find_dataset(location, folder)


def numbers(batch: Batch) -> list[int]:
    """Which images a batch holds, negative (−1 − number) where mirrored."""
    pixels = batch.images.add(1).mul(127.5).round().long()[:, 0]
    found = (pixels[:, 0].mul(256) + pixels[:, 1]).tolist()
    return [left if left >= right else -1 - right for left, right in found]


def streaming(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make loaders read shards from disk, as they do for splits of more than 256 MiB."""
    monkeypatch.setattr(loader, "IN_MEMORY_BYTES", 0)


def loaded(info: DatasetInfo, updates: range, world_size: int = 1, flip: bool = True) -> list[list[int]]:
    """What each update of a loader opened for these updates holds, all ranks together."""
    loaders = [
        TrainingLoader(info, batch_size=64, seed=3, rank=rank, world_size=world_size, flip=flip)
        for rank in range(world_size)
    ]
    try:
        return [[number for one in loaders for number in numbers(one.batch(update))] for update in updates]
    finally:
        for one in loaders:
            one.close()
