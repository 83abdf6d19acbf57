"""Writes an encoded dataset shard by shard, from any number of processes; finished shards survive a crash.

Shards, and a record of each, are staged: beside a local folder, which is renamed at the end; or in the bucket itself,
where the manifest, written last, makes them visible.
"""

import os
import shutil
import tempfile
from math import prod
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from pydantic import NonNegativeInt

from progdistill.data.columns import LABEL, LABEL_COLUMN, LATENT_MEAN, LATENT_STD, Column, Rows, is_condition
from progdistill.data.dataset import DatasetInfo
from progdistill.data.manifest import (
    MANIFEST_KEY,
    DatasetManifest,
    PreparedFrom,
    SplitStatistics,
    fingerprint_of,
    read_manifest,
    write_manifest,
)
from progdistill.data.shards import ShardEntry, create_shard, rows_per_shard, write_rows
from progdistill.data.source import ImageFacts
from progdistill.data.split_writer import described
from progdistill.errors import LostInvariantError, UsageError
from progdistill.store.base import Store
from progdistill.store.documents import Record, encode, read_record
from progdistill.store.open import open_store

UNCONDITIONAL: Final = "unconditional"


class EncodedShard(Record):
    """The record that makes a staged shard complete."""

    schema_version: Literal[1] = 1
    entry: ShardEntry
    class_counts: tuple[NonNegativeInt, ...]
    """Of labels 0, 1, … as far as they occur."""
    latent_sums: tuple[tuple[float, ...], tuple[float, ...]]
    """For each channel of the latents: the sum of means, and of mean² + std²."""
    cut_prompts: NonNegativeInt


class ShardRange(NamedTuple):
    """A shard to be: rows start … stop − 1 of a split, in stored order."""

    split: str
    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Of its file, without the suffix."""
        return f"{self.split}-{self.number:05d}"


class EncodingStage:
    """The shards of one encoding that are finished; `job_id` keeps those of other options apart."""

    def __init__(self, out: str, job_id: str) -> None:
        self.out = open_store(out)
        folder = self.out.folder
        if folder is not None and folder.is_dir() and any(folder.iterdir()) and read_manifest(self.out) is None:
            raise UsageError(f"{folder} is not empty: remove it or choose another --out")
        self._staging: Store = self.out if folder is None else open_store(f"{folder}.encoding")
        self._records = f"encoding/{job_id}/"

    def finished(self) -> set[str]:
        """The names of the shards that are complete."""
        return {Path(item.key).stem for item in self._staging.list(self._records)}

    def write(self, name: str, columns: tuple[Column, ...], rows: Rows, cut_prompts: int) -> None:
        """Write a shard, then its record. Replaces what a process that died left; idempotent."""
        count = len(next(iter(rows.values())))
        with tempfile.TemporaryDirectory(dir=self._staging.scratch()) as folder:
            path = Path(folder) / f"{name}.arrow"
            layout = create_shard(path, count, columns)
            write_rows(path, layout, 0, {column.name: rows[column.name] for column in columns})
            entry, _ = described(path, count, layout, columns)
            self._staging.upload(path, lambda _: path.name, consume=True)
        record = EncodedShard(
            entry=entry,
            class_counts=tuple(np.bincount(rows[LABEL]).tolist()),
            latent_sums=_latent_sums(rows),
            cut_prompts=cut_prompts,
        )
        self._staging.write(self._record_key(name), encode(record))

    def read(self, name: str) -> EncodedShard:
        """The record of a finished shard."""
        record = read_record(self._staging, self._record_key(name), EncodedShard)
        if record is None:
            raise LostInvariantError(
                f"{self._staging.uri}/{self._record_key(name)} is gone: run the same command again"
            )
        return record

    def publish(self, manifest: DatasetManifest) -> None:
        """Make the dataset visible; remove the records, and shards of other options."""
        write_manifest(self._staging, manifest)
        used = {MANIFEST_KEY, *(entry.file for entry in manifest.entries)}
        for item in list(self._staging.list("")):
            if item.key.startswith("encoding/") or (item.key.endswith(".arrow") and item.key not in used):
                self._staging.delete(item.key)
        if self.out.folder is not None and self._staging.folder is not None:
            shutil.rmtree(self._staging.scratch())
            if self.out.folder.is_dir():
                self.out.folder.rmdir()
            os.rename(self._staging.folder, self.out.folder)

    def _record_key(self, name: str) -> str:
        return f"{self._records}{name}.json"


def ranges_of(splits: dict[str, int], columns: tuple[Column, ...]) -> list[ShardRange]:
    """The shards of a dataset with these columns."""
    size, found = rows_per_shard(columns), []
    for split, count in splits.items():
        for number, start in enumerate(range(0, count, size)):
            found.append(ShardRange(split, number, start, min(start + size, count)))
    return found


def encoded_manifest(
    stage: EncodingStage, name: str, facts: ImageFacts, source: DatasetInfo, pipeline: str, job_id: str
) -> DatasetManifest:
    """The manifest of a dataset whose shards are all finished."""
    splits: dict[str, tuple[ShardEntry, ...]] = {}
    statistics, cut_prompts = {}, 0
    for split in source.splits:
        names = [place.name for place in ranges_of(source.splits, facts.stored_columns) if place.split == split]
        shards = [stage.read(one) for one in names]
        splits[split] = tuple(shard.entry for shard in shards)
        statistics[split] = _statistics(facts, shards)
        cut_prompts += sum(shard.cut_prompts for shard in shards)
    has_prompts = any(is_condition(column) for column in facts.columns)
    unconditional = stage.read(UNCONDITIONAL).entry if has_prompts else None
    return DatasetManifest(
        **facts.model_dump(),
        name=name,
        fingerprint=fingerprint_of(facts, splits, pipeline, unconditional),
        splits=splits,
        statistics=statistics,
        prepared_from=PreparedFrom(
            importer="encode",
            source=source.name,
            description=f"encoded by pipeline {pipeline[:12]}",
            identity={"job": job_id, "dataset": source.fingerprint},
            cut_prompts=cut_prompts,
        ),
        encoded_by=pipeline,
        unconditional=unconditional,
    )


def unconditional_columns(columns: tuple[Column, ...]) -> tuple[Column, ...]:
    """The columns of the empty prompt's shard."""
    return (LABEL_COLUMN, *(column for column in columns if is_condition(column)))


def _latent_sums(rows: Rows) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if LATENT_MEAN not in rows:
        return (), ()
    mean = rows[LATENT_MEAN].astype(np.float64)
    squares = np.square(mean)
    if LATENT_STD in rows:
        squares += np.square(rows[LATENT_STD].astype(np.float64))
    return tuple(mean.sum(axis=(0, 2, 3)).tolist()), tuple(squares.sum(axis=(0, 2, 3)).tolist())


def _statistics(facts: ImageFacts, shards: list[EncodedShard]) -> SplitStatistics:
    counts = np.zeros(max(1, len(facts.class_names)), np.int64)
    for shard in shards:
        counts[: len(shard.class_counts)] += shard.class_counts
    sums = np.array([shard.latent_sums for shard in shards]).sum(axis=0)
    if not sums.size or facts.sample_shape is None:
        return SplitStatistics(class_counts=tuple(counts.tolist()), mean=(), std=())
    mean, mean_square = sums / (sum(shard.entry.rows for shard in shards) * prod(facts.sample_shape[1:]))
    std = np.sqrt(np.maximum(mean_square - mean**2, 0))
    return SplitStatistics(class_counts=tuple(counts.tolist()), mean=tuple(mean.tolist()), std=tuple(std.tolist()))
