"""Preparing a source and comparing what is stored with what went in."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from progdistill.data.dataset import DatasetInfo, info_of
from progdistill.data.prepare import prepare
from progdistill.data.reading import read_split
from progdistill.data.source import Source

Rows = list[tuple[int, bytes]]


def prepared(source: Source, folder: Path, name: str = "mine") -> DatasetInfo:
    """Prepare a source in a folder of that name."""
    out = str(folder / name)
    return info_of(prepare(source, name, out, staging_root=folder), out)


def rows(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Rows:
    """Images with their labels, in an order of their own, so that two lots can be compared."""
    return sorted((int(label), image.tobytes()) for image, label in zip(images, labels, strict=True))


def stored(info: DatasetInfo, split: str = "train") -> Rows:
    """What is stored of a split."""
    return rows(*read_split(info, split))
