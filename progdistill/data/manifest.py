"""A prepared dataset's manifest: what it holds, in which shards, and its fingerprint."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final, Literal

from pydantic import JsonValue, PositiveInt

from progdistill.data.shards import ShardEntry
from progdistill.data.statistics import SplitStatistics
from progdistill.models_base import Frozen, content_id
from progdistill.store.base import Store
from progdistill.store.digest import Sha256
from progdistill.store.documents import Record, decode, encode

MANIFEST_KEY: Final = "manifest.json"


class PreparedFrom(Frozen):
    """Where the images came from: told to people, no part of the fingerprint."""

    importer: str
    source: str
    description: str
    """How pixels were derived, such as "center crop, area resize to 64×64"."""
    identity: dict[str, JsonValue]
    """What told this source and these options from others."""
    unreadable: tuple[str, ...] = ()
    """Names of images that could not be read and were left out."""


class DatasetManifest(Record):
    """The document `manifest.json` of a prepared dataset."""

    schema_version: Literal[1] = 1
    name: str
    fingerprint: Sha256
    channels: Literal[1, 3]
    image_size: PositiveInt
    """Height and width in pixels."""
    class_names: tuple[str, ...]
    """Label k is class_names[k]. Empty: the images have no classes, and every label is 0."""
    horizontal_flip_safe: bool
    """Whether a mirrored image is as plausible as the image: no for digits and letters."""
    splits: dict[str, tuple[ShardEntry, ...]]
    statistics: dict[str, SplitStatistics]
    prepared_from: PreparedFrom

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return (self.image_size, self.image_size, self.channels)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Images of each split, the training split first."""
        names = sorted(self.splits, key=lambda split: (split != "train", split))
        return {split: sum(entry.rows for entry in self.splits[split]) for split in names}

    @property
    def size_bytes(self) -> int:
        """What the shards take."""
        return sum(entry.size_bytes for entries in self.splits.values() for entry in entries)


def fingerprint_of(
    image_shape: tuple[int, int, int],
    class_names: Sequence[str],
    splits: Mapping[str, Sequence[ShardEntry]],
) -> str:
    """SHA-256 over what a model sees: shape, classes, and every split's pixels and labels in stored order."""
    content = {split: [entry.content_sha256 for entry in entries] for split, entries in splits.items()}
    facts = {"shape": list(image_shape), "classes": list(class_names), "content": content}
    return content_id(facts)


def read_manifest(store: Store) -> DatasetManifest | None:
    """The manifest at the root of a store, None when there is none.

    Raises LostInvariantError for a damaged one, UsageError for a schema version of the future.
    """
    data = store.read(MANIFEST_KEY)
    if data is None:
        return None
    return decode(DatasetManifest, data, where=f"{store.uri}/{MANIFEST_KEY}")


def write_manifest(store: Store, manifest: DatasetManifest) -> None:
    """Make a prepared dataset exist: its shards must be in the store already."""
    store.write(MANIFEST_KEY, encode(manifest))
