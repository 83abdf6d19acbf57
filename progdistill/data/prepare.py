"""Prepares a dataset from a source: resumes after a crash, and publishes the whole or nothing."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from progdistill.data.manifest import DatasetManifest, PreparedFrom, fingerprint_of, read_manifest, write_manifest
from progdistill.data.shards import ShardEntry, sample_bytes
from progdistill.data.source import Source, SourceFacts
from progdistill.data.split_writer import describe_split, write_split
from progdistill.data.staging import StagingFolder, exclusively
from progdistill.errors import Interrupted, LostInvariantError, UsageError
from progdistill.escape import one_line
from progdistill.progress import Progress
from progdistill.store.base import Store
from progdistill.store.open import open_store

UPLOADS: Final = 4

UPLOADING_KEY: Final = "uploading.json"
"""Holds the fingerprint of the dataset while its shards are being uploaded."""


def prepare(source: Source, name: str, out: str, *, staging_root: Path, max_unreadable: int = 100) -> DatasetManifest:
    """Prepare `source` as dataset `name`. Idempotent: resumes an interrupted call, returns a finished one.

    Nothing is visible at `out` before the dataset is complete.

    Args:
        source: The images.
        name: Name of the dataset.
        out: Folder or URI of the prepared dataset.
        staging_root: Where shards are staged if `out` is not a local folder.
        max_unreadable: Number of unreadable images that are skipped. With more, the source itself is suspect.

    Returns:
        The manifest of the prepared dataset.

    Raises:
        UsageError: `out` holds another dataset, the disk is too small, an image has another shape than the first one,
            a label is out of range, or more than `max_unreadable` images cannot be read.
        Interrupted: Ctrl-C. The same call resumes.
    """
    store = open_store(out)
    folder = store.folder or staging_root / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusively(Path(f"{folder}.preparing.lock")):
        if (present := _present(source.facts, store)) is not None:
            return present
        if store.folder is not None and folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty: remove it or choose another --out")
        staging = StagingFolder(Path(f"{folder}.preparing"))
        try:
            manifest = _stage(source, name, staging, max_unreadable)
            publish(staging, manifest, store)
        except KeyboardInterrupt as error:
            raise Interrupted("interrupted: run the same command again to resume") from error
    return manifest


def _present(facts: SourceFacts, out: Store) -> DatasetManifest | None:
    manifest = read_manifest(out)
    if manifest is None:
        return None
    prepared = (manifest.prepared_from.identity, manifest.horizontal_flip_safe)
    if prepared != (facts.identity, facts.horizontal_flip_safe):
        raise UsageError(
            f"{out.uri} already holds dataset {manifest.name}, prepared from an earlier state of"
            f" {manifest.prepared_from.source} or with other options: remove it first or choose another --out"
        )
    return manifest


def _stage(source: Source, name: str, staging: StagingFolder, max_unreadable: int) -> DatasetManifest:
    facts = source.facts
    staging.resume(facts.identity)
    staging.require_space(sum(facts.splits.values()) * sample_bytes(facts.stored_columns))
    splits, statistics, unreadable = {}, {}, list[str]()
    for split, count in facts.splits.items():
        skipped = write_split(source, split, staging, max_unreadable).unreadable.values()
        unreadable += skipped
        splits[split], statistics[split] = describe_split(
            staging.path, split, count - len(skipped), facts.stored_columns, max(1, len(facts.class_names))
        )
    return DatasetManifest(
        name=name,
        fingerprint=fingerprint_of(facts, splits),
        channels=facts.channels,
        image_size=facts.image_size,
        class_names=facts.class_names,
        horizontal_flip_safe=facts.horizontal_flip_safe,
        columns=facts.columns,
        splits=splits,
        statistics=statistics,
        prepared_from=PreparedFrom(
            importer=facts.importer,
            source=one_line(facts.location),
            description=facts.description,
            identity=facts.identity,
            unreadable=tuple(unreadable),
            not_used=facts.not_used,
        ),
    )


def publish(staging: StagingFolder, manifest: DatasetManifest, out: Store) -> None:
    """Publish a finished staging folder and remove it. After a crash, another call resumes."""
    if out.folder is not None:
        write_manifest(staging.store, manifest)
        os.rename(staging.path, out.folder)
        StagingFolder(out.folder).finish()
    else:
        _upload(staging, manifest, out)
        write_manifest(out, manifest)
        out.delete(UPLOADING_KEY)
        shutil.rmtree(staging.path)


def _upload(staging: StagingFolder, manifest: DatasetManifest, out: Store) -> None:
    """Upload the shards that no earlier attempt at the same dataset has uploaded."""
    fingerprint = manifest.fingerprint.encode()
    resumed = out.read(UPLOADING_KEY) == fingerprint
    present = {(item.key, item.size_bytes) for item in out.list("")} if resumed else set()
    out.write(UPLOADING_KEY, fingerprint)
    entries = manifest.entries
    missing = [entry for entry in entries if (entry.file, entry.digest.size_bytes) not in present]
    with (
        Progress("uploading", total=len(entries), unit="shards", start=len(entries) - len(missing)) as progress,
        ThreadPoolExecutor(UPLOADS) as pool,
    ):
        for _ in pool.map(lambda entry: _upload_one(staging, entry, out), missing):
            progress.advance()


def _upload_one(staging: StagingFolder, entry: ShardEntry, out: Store) -> None:
    if out.upload(staging.path / entry.file, lambda _: entry.file) != entry.digest:
        raise LostInvariantError(f"{staging.path / entry.file} changed between writing and uploading")
