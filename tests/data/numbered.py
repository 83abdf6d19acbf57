"""A dataset whose images tell their number, in many small shards, so that order and reading show."""

from pathlib import Path

import numpy as np
import pytest

from progdistill.data import loader, shards
from progdistill.data.dataset import DatasetInfo, find_dataset
from progdistill.data.importers.arrays import ArraysSource
from progdistill.data.loader import Batch, TrainingLoader
from progdistill.data.prepare import prepare

ROWS_PER_SHARD = 50
CLASSES = 10
SHAPE = (2, 2, 1)


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
    place = out or str(folder / "numbered")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shards, "SHARD_BYTES", ROWS_PER_SHARD * int(np.prod(SHAPE)))
        prepare(source, "numbered", place, staging_root=folder)
    return find_dataset(place, folder)


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
