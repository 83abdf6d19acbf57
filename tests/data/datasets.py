"""Prepared datasets for tests: from any source, and one in small shards whose images encode their numbers."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from progdistill.data import loader, shards
from progdistill.data.columns import LABEL_COLUMN, Column, is_condition
from progdistill.data.dataset import DatasetInfo, find_dataset, info_of
from progdistill.data.importers.arrays import ArraysSource
from progdistill.data.importers.image_contents import Container
from progdistill.data.importers.image_files import ImageFilesSource
from progdistill.data.importers.splits import parse_choices
from progdistill.data.loader import Batch, TrainingLoader
from progdistill.data.manifest import DatasetManifest, PreparedFrom, SplitStatistics, fingerprint_of, write_manifest
from progdistill.data.prepare import prepare
from progdistill.data.preprocess import Preprocessing
from progdistill.data.reading import read_split
from progdistill.data.shards import create_shard, write_rows
from progdistill.data.source import ImageFacts, Source, SourceFacts, SourceImage
from progdistill.data.split_writer import described
from progdistill.store.local import LocalStore

ROWS_PER_SHARD = 50
CLASSES = 10
SHAPE = (2, 2, 1)

Rows = list[tuple[int, bytes]]


def prepared(source: Source, folder: Path, name: str = "mine") -> DatasetInfo:
    """Prepare a source in a folder of that name."""
    out = str(folder / name)
    return info_of(prepare(source, name, out, staging_root=folder), out)


def image_folder(
    path: Path, rule: Preprocessing, *, horizontal_flip_safe: bool = True, choices: Sequence[str] = ()
) -> Source:
    """A folder of images as a source; `choices` are options `--split`."""
    flip, splits = horizontal_flip_safe, parse_choices(choices)
    return ImageFilesSource(str(path), [Container(path)], rule, horizontal_flip_safe=flip, choices=splits)


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
    pixels = batch.x.add(1).mul(127.5).round().long()[:, 0]
    found = (pixels[:, 0].mul(256) + pixels[:, 1]).tolist()
    return [left if left >= right else -1 - right for left, right in found]


def encoded_dataset(
    folder: Path,
    columns: Sequence[Column],
    count: int,
    rows_per_shard: int,
    encoded_by: str = "a" * 64,
    classes: int = 10,
) -> DatasetInfo:
    """Samples whose number fills every column but standard deviations, which are 0.1, without images.

    Sample number n has label n mod 10; masks hold whether n is odd. The empty prompt holds −1.
    """
    place = folder / "encoded"
    place.mkdir()
    names = tuple(map(str, range(classes)))
    facts = ImageFacts(channels=0, image_size=0, class_names=names, horizontal_flip_safe=False, columns=tuple(columns))
    entries = []
    for start in range(0, count, rows_per_shard):
        numbers = np.arange(start, min(start + rows_per_shard, count))
        path = place / f"train-{start // rows_per_shard:05d}.arrow"
        layout = create_shard(path, len(numbers), facts.stored_columns)
        write_rows(path, layout, 0, {"label": numbers % 10, **{c.name: _filled(c, numbers) for c in columns}})
        entries.append(described(path, len(numbers), layout, facts.stored_columns)[0])
    kept = [column for column in columns if is_condition(column)]
    empty = place / "unconditional.arrow"
    layout = create_shard(empty, 1, [LABEL_COLUMN, *kept])
    write_rows(empty, layout, 0, {column.name: _filled(column, np.array([-1])) for column in kept})
    unconditional = described(empty, 1, layout, [LABEL_COLUMN, *kept])[0]
    splits, origin = {"train": tuple(entries)}, PreparedFrom(importer="", source="", description="", identity={})
    manifest = DatasetManifest(
        **facts.model_dump(),
        name="encoded",
        fingerprint=fingerprint_of(facts, splits, encoded_by, unconditional),
        splits=splits,
        statistics={"train": SplitStatistics(class_counts=(), mean=(), std=())},
        prepared_from=origin,
        encoded_by=encoded_by,
        unconditional=unconditional,
    )
    write_manifest(LocalStore(place), manifest)
    return find_dataset(str(place), folder)


class CaptionedSource(Source):
    """Images of one color, their number, with the caption `image NUMBER`; two classes, cat and dog, in turn."""

    def __init__(self, count: int, size: int, captions: Sequence[str] | None = None) -> None:
        self._captions = captions or [f"image {number}" for number in range(count)]
        self.facts = SourceFacts(
            importer="captioned",
            location="nowhere",
            description="",
            identity={"count": count},
            channels=3,
            image_size=size,
            class_names=("cat", "dog"),
            horizontal_flip_safe=True,
            splits={"train": count},
            columns=(Column(name="caption", shape=(128,), dtype="uint8"),),
        )

    def read(self, split: str, start: int = 0) -> Iterator[SourceImage]:
        size = self.facts.image_size
        for number in range(start, len(self._captions)):
            pixels = np.full((size, size, 3), number, np.uint8)
            yield SourceImage(f"image {number}", number % 2, pixels, self._captions[number])


def _filled(column: Column, numbers: NDArray[np.int64]) -> NDArray[Any]:
    values = numbers % 2 if column.dtype == "bool" else numbers
    if column.name == "latent_std":
        values = np.full(len(numbers), 0.1)
    shape = (len(numbers), *column.shape)
    return np.broadcast_to(values.reshape(-1, *[1] * len(column.shape)), shape).astype(column.numpy_dtype)


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
