"""Writes one split's shards in a shuffled order that is a function of its length, whatever the source's order.

So every shard is a fair sample of the whole, even of a source sorted by class, and a loader that holds a few
shards at a time still mixes well. The place of image i depends on i alone: writing it again changes nothing,
which makes an interrupted preparation safe to go on from any image before the one it reached.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from progdistill.artifacts.digest import digest_of_file
from progdistill.data.counter_random import random_order
from progdistill.data.shard_format import (
    LABEL_BYTES,
    ShardEntry,
    ShardLayout,
    content_digest,
    create_shard,
    read_into,
    rows_per_shard,
    write_row,
)
from progdistill.data.source import Pixels

STORED_ORDER_KEY: Final = 0x70726F6764697374
"""Chosen once: another key would give every prepared dataset another fingerprint."""


class SplitWriter:
    """Shards `<split>-00000.arrow`, … under `folder` with room for `count` images."""

    def __init__(self, folder: Path, split: str, count: int, shape: tuple[int, int, int]) -> None:
        self._folder, self._split, self._count, self._shape = folder, split, count, shape
        self._image_bytes = int(np.prod(shape))
        self._full = rows_per_shard(self._image_bytes)
        self._places = random_order(STORED_ORDER_KEY, count)
        self._layouts: dict[int, ShardLayout] = {}

    def put(self, index: int, image: Pixels, label: int) -> None:
        """Store image number `index` of the source, in any order, any number of times."""
        shard, row = divmod(int(self._places[index]), self._full)
        layout = self._layout(shard)
        with _opened(self._path(shard), os.O_WRONLY) as descriptor:
            write_row(descriptor, layout, row, image, label)

    def finish(self, missing: Sequence[int]) -> None:
        """Close the gaps that images left which could not be read: rows from the end move into them."""
        kept = self._count - len(missing)
        holes = {int(self._places[index]) for index in missing}
        movable = [place for place in range(kept, self._count) if place not in holes]
        for hole, place in zip(sorted(hole for hole in holes if hole < kept), movable, strict=True):
            self._move(place, hole)
        self._cut(kept)

    def entries(self, count: int) -> Iterator[ShardEntry]:
        """Read the finished shards of `count` images back and describe them, one by one."""
        for shard in range(-(-count // self._full)):
            rows = min(self._full, count - shard * self._full)
            path, layout = self._path(shard), self._layout_of(rows)
            file = digest_of_file(path)
            with _opened(path, os.O_RDONLY) as descriptor:
                content = content_digest(descriptor, layout, rows, self._image_bytes)
            yield ShardEntry(
                file=path.name,
                rows=rows,
                size_bytes=file.size_bytes,
                sha256=file.sha256,
                content_sha256=content,
                **layout._asdict(),
            )
