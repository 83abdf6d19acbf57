"""Reading a prepared dataset's images in stored order."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from progdistill.data.dataset import DatasetInfo
from progdistill.data.stored import Labels, Manifest, Pixels, read_manifest, read_shard
from progdistill.errors import LostInvariantError, UsageError


def iterate_images(info: DatasetInfo, split: str, batch_size: int) -> Iterator[tuple[Pixels, Labels]]:
    """Images uint8 [n, h, w, c] and labels int64 [n] in stored order, n = `batch_size` but for the last.

    Raises:
        UsageError: no such split.
        LostInvariantError: the data is corrupt, or is no longer what `info` describes.
    """
    if batch_size < 1:
        raise UsageError(f"a batch needs at least one image, not {batch_size}")
    held: list[tuple[Pixels, Labels]] = []
    for shard in _shards(info, split):
        held.append(shard)
        if sum(len(labels) for _, labels in held) < batch_size:
            continue
        pixels, labels = _join(held)
        whole = len(labels) - len(labels) % batch_size
        for start in range(0, whole, batch_size):
            yield pixels[start : start + batch_size], labels[start : start + batch_size]
        held = [(pixels[whole:], labels[whole:])] if whole < len(labels) else []
    if held:
        yield _join(held)


def read_split(info: DatasetInfo, split: str) -> tuple[Pixels, Labels]:
    """The whole split in memory: images uint8 [n, h, w, c] and labels int64 [n]; raises as above."""
    return _join(list(_shards(info, split)))


def _shards(info: DatasetInfo, split: str) -> Iterator[tuple[Pixels, Labels]]:
    manifest = _manifest(info, split)
    for shard in manifest.shards:
        if shard.split == split:
            yield read_shard(Path(info.location), manifest.description, shard)


def _manifest(info: DatasetInfo, split: str) -> Manifest:
    if split not in info.splits:
        raise UsageError(f"dataset {info.name} has no split {split!r}, it has {', '.join(info.splits)}")
    manifest = read_manifest(Path(info.location))
    if manifest.fingerprint != info.fingerprint:
        raise LostInvariantError(
            f"{info.location} changed: its fingerprint is {manifest.fingerprint}, expected {info.fingerprint}"
        )
    return manifest


def _join(parts: list[tuple[Pixels, Labels]]) -> tuple[Pixels, Labels]:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([pixels for pixels, _ in parts]), np.concatenate([labels for _, labels in parts])
