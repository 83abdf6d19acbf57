"""The manifest of a prepared dataset: its shape, classes, shards, statistics and fingerprint."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final, Literal

from pydantic import AliasChoices, Field, JsonValue, NonNegativeInt, PositiveInt

from progdistill.data.shards import ShardEntry
from progdistill.models_base import Frozen, content_id
from progdistill.store.base import Store
from progdistill.store.digest import Sha256
from progdistill.store.documents import Record, encode, read_record

MANIFEST_KEY: Final = "manifest.json"


class SplitStatistics(Frozen):
    """Exact statistics of a split, computed when it was prepared."""

    class_counts: tuple[NonNegativeInt, ...]
    """Number of images in each class."""
    mean: tuple[float, ...]
    """Mean pixel value of each channel, 0..255."""
    std: tuple[float, ...] = Field(validation_alias=AliasChoices("std", "spread"))
    """Standard deviation of each channel's pixel values. Older manifests call it `spread`."""


class PreparedFrom(Frozen):
    """Where the images came from. Informational: not part of the fingerprint."""

    importer: str
    source: str
    description: str
    """How pixels were derived, such as "center crop, area resize to 64×64"."""
    identity: dict[str, JsonValue]
    """Identifies the source and the options."""
    unreadable: tuple[str, ...] = ()
    """Names of images that could not be read and were skipped."""


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
    """Whether a mirrored image is as plausible as the image. False for digits and letters."""
    splits: dict[str, tuple[ShardEntry, ...]]
    statistics: dict[str, SplitStatistics]
    prepared_from: PreparedFrom

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return (self.image_size, self.image_size, self.channels)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of images in each split, the training split first."""
        names = sorted(self.splits, key=lambda split: (split != "train", split))
        return {split: sum(entry.rows for entry in self.splits[split]) for split in names}

    @property
    def size_bytes(self) -> int:
        """Total size of the shards."""
        return sum(entry.size_bytes for entries in self.splits.values() for entry in entries)


def fingerprint_of(
    image_shape: tuple[int, int, int], class_names: Sequence[str], splits: Mapping[str, Sequence[ShardEntry]]
) -> str:
    """Return the SHA-256 over what a model sees: shape, classes, and each split's pixels and labels."""
    content = {split: [entry.content_sha256 for entry in entries] for split, entries in splits.items()}
    facts = {"shape": list(image_shape), "classes": list(class_names), "content": content}
    return content_id(facts)


def read_manifest(store: Store) -> DatasetManifest | None:
    """Return the manifest at the root of a store, or None if there is none.

    Raises:
        LostInvariantError: The manifest is damaged.
        UsageError: Its schema version is unsupported.
    """
    return read_record(store, MANIFEST_KEY, DatasetManifest)


def write_manifest(store: Store, manifest: DatasetManifest) -> None:
    """Write the manifest, which makes the dataset visible. The shards must be in the store already."""
    store.write(MANIFEST_KEY, encode(manifest))
