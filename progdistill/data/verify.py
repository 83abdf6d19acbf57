"""Reads every byte of a prepared dataset and compares it with the digests."""

from progdistill.artifacts.store import open_store
from progdistill.data.dataset import DatasetInfo, manifest_of
from progdistill.errors import LostInvariantError
from progdistill.progress import Progress


def verify_dataset(info: DatasetInfo) -> None:
    """Raise LostInvariantError unless all is intact: it names every damaged shard, with digests."""
    store, manifest = open_store(info.location), manifest_of(info)
    entries = [entry for shards in manifest.splits.values() for entry in shards]
    damages = []
    with Progress(f"verifying {info.name}", total=len(entries), unit="shards") as progress:
        for entry in entries:
            try:
                store.verify(entry.file, entry.digest)
            except LostInvariantError as error:
                damages.append(str(error))
            progress.advance()
    if damages:
        raise LostInvariantError(
            "\n".join([*damages, f"restore them from a copy, or remove {info.location} and prepare it again"])
        )
