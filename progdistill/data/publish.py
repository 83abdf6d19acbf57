"""Gives a staged dataset its place: a folder's final name, or a bucket, manifest last."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from progdistill.artifacts.digest import FileDigest
from progdistill.artifacts.local_store import LocalStore
from progdistill.artifacts.store import Store
from progdistill.data.manifest import DatasetManifest, write_manifest
from progdistill.data.shard_format import ShardEntry
from progdistill.data.staging import StagingFolder
from progdistill.errors import LostInvariantError
from progdistill.progress import Progress

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
