"""Turns a source into a prepared dataset: decodes on all cores, goes on after a crash, publishes last."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from progdistill.data.image_names import readable_name
from progdistill.data.manifest import (
    DatasetManifest,
    PreparedFrom,
    fingerprint_of,
    read_manifest,
    write_manifest,
)
from progdistill.data.shards import ShardEntry
from progdistill.data.source import Source, SourceFacts
from progdistill.data.split_writer import SplitWriter, store_images
from progdistill.data.staging import PreparationState, StagingFolder, exclusively
from progdistill.data.statistics import SplitStatistics
from progdistill.errors import Interrupted, LostInvariantError, UsageError
from progdistill.progress import Progress
from progdistill.store.base import Store
from progdistill.store.digest import FileDigest
from progdistill.store.local import LocalStore
from progdistill.store.open import open_store

UPLOADS: Final = 4
"""Shards on their way at a time."""

UPLOADING_KEY: Final = "uploading.json"
"""Says, while shards are uploaded, whose they are: the fingerprint."""


def publish(staging: StagingFolder, manifest: DatasetManifest, out: Store) -> None:
    """Publish a finished staging folder, which goes away; called again after a crash, it goes on."""
    if isinstance(out, LocalStore):
        write_manifest(staging.store, manifest)
        os.rename(staging.path, out.root)
        StagingFolder(out.root).unmark()
    else:
        _upload(staging, manifest, out)
        write_manifest(out, manifest)
        out.delete(UPLOADING_KEY)
        shutil.rmtree(staging.path)


def _upload(staging: StagingFolder, manifest: DatasetManifest, out: Store) -> None:
    """Upload the shards that an earlier attempt at the same dataset has not."""
    mark = manifest.fingerprint.encode()
    there = set()
    if out.read(UPLOADING_KEY) == mark:
        there = {(item.key, item.size_bytes) for item in out.list("")}
    out.write(UPLOADING_KEY, mark)
    entries = [entry for shards in manifest.splits.values() for entry in shards]
    missing = [entry for entry in entries if (entry.file, entry.size_bytes) not in there]
    done = len(entries) - len(missing)
    with (
        Progress("uploading", total=len(entries), unit="shards", start=done) as progress,
        ThreadPoolExecutor(UPLOADS) as pool,
    ):
        for _ in pool.map(lambda entry: _upload_one(staging, entry, out), missing):
            progress.advance()


def _upload_one(staging: StagingFolder, entry: ShardEntry, out: Store) -> FileDigest:
    uploaded = out.upload(staging.path / entry.file, lambda _: entry.file)
    if uploaded != entry.digest:
        raise LostInvariantError(f"{staging.path / entry.file} changed between writing and uploading")
    return uploaded


MAX_UNREADABLE: Final = 100
"""Unreadable images left out before a preparation gives up: beyond this the source itself is suspect."""


def prepare(
    source: Source, name: str, out: str, *, staging_root: Path, max_unreadable: int = MAX_UNREADABLE
) -> DatasetManifest:
    """Prepare `source` as dataset `name` at `out`, a folder or URI; what an interrupted call left is used.

    Shards are made beside a folder, else in `staging_root`. Nothing is visible at `out` before it is whole;
    if the dataset is there already, it is returned.

    Raises UsageError when `out` holds another dataset, the disk is too small, an image has another shape than
    the first, a label is out of range, or more than `max_unreadable` images cannot be read; Interrupted
    on Ctrl-C.
    """
    store = open_store(out)
    folder = store.root if isinstance(store, LocalStore) else staging_root / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusively(Path(f"{folder}.preparing.lock")):
        present = _present(source.facts, store)
        if present is not None:
            return present
        if isinstance(store, LocalStore) and folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"{folder} holds something already: remove it or choose another --out")
        staging = StagingFolder(Path(f"{folder}.preparing"))
        try:
            manifest = _staged(source, name, staging, max_unreadable)
            publish(staging, manifest, store)
        except KeyboardInterrupt as error:
            raise Interrupted("interrupted: run the same command again to go on from here") from error
    return manifest


def _present(facts: SourceFacts, out: Store) -> DatasetManifest | None:
    manifest = read_manifest(out)
    if manifest is None:
        return None
    if (manifest.prepared_from.identity, manifest.horizontal_flip_safe) != (
        facts.identity,
        facts.horizontal_flip_safe,
    ):
        raise UsageError(
            f"{out.uri} already holds dataset {manifest.name}, prepared from {manifest.prepared_from.source}"
            " as it was then or with other options: remove it first or choose another --out"
        )
    return manifest


def _staged(source: Source, name: str, staging: StagingFolder, max_unreadable: int) -> DatasetManifest:
    """Store every split in the staging folder."""
    facts = source.facts
    state = staging.resume(facts.identity)
    staging.require_space(sum(facts.splits.values()) * facts.image_bytes)
    if not state.splits:
        source.verify()
    splits: dict[str, tuple[ShardEntry, ...]] = {}
    statistics: dict[str, SplitStatistics] = {}
    for split, count in facts.splits.items():
        writer = SplitWriter(staging.path, split, count, facts.image_shape)
        state = store_images(source, split, writer, staging, state, max_unreadable)
        splits[split], statistics[split] = writer.described(max(1, len(facts.class_names)))
    return DatasetManifest(
        name=name,
        fingerprint=fingerprint_of(facts.image_shape, facts.class_names, splits),
        channels=facts.channels,
        image_size=facts.image_size,
        class_names=facts.class_names,
        horizontal_flip_safe=facts.horizontal_flip_safe,
        splits=splits,
        statistics=statistics,
        prepared_from=_origin(facts, state),
    )


def _origin(facts: SourceFacts, state: PreparationState) -> PreparedFrom:
    unreadable = [image for split in facts.splits for image in state.split(split).unreadable.values()]
    return PreparedFrom(
        importer=facts.importer,
        source=readable_name(facts.location),
        description=facts.description,
        identity=facts.identity,
        unreadable=tuple(unreadable),
    )
