"""The manifest of a prepared dataset: its shape, classes, shards, statistics and fingerprint."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar, Final, Literal, Self

from pydantic import JsonValue, NonNegativeInt, model_validator

from progdistill.data.shards import ShardEntry
from progdistill.data.source import ImageFacts
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
    """Mean pixel value of each channel, 0..255; of a dataset of latents, the mean of each of their channels."""
    std: tuple[float, ...]
    """Standard deviation of the same."""


class PreparedFrom(Frozen):
    """Where the images came from (see SourceFacts). Informational: not part of the fingerprint."""

    importer: str
    source: str
    description: str
    identity: dict[str, JsonValue]
    unreadable: tuple[str, ...] = ()
    """Names of images that could not be read and were skipped."""
    cut_prompts: int = 0
    """Number of prompts longer than the text encoder takes, which it saw cut."""
    not_used: tuple[str, ...] = ()
    """What else the source had: see SourceFacts."""


class DatasetManifest(Record, ImageFacts):
    """The document `manifest.json` of a prepared dataset."""

    older_schema_advice: ClassVar[str] = "remove it and prepare the dataset again"

    schema_version: Literal[2] = 2
    name: str
    fingerprint: Sha256
    splits: dict[str, tuple[ShardEntry, ...]]
    statistics: dict[str, SplitStatistics]
    prepared_from: PreparedFrom
    encoded_by: Sha256 | None = None
    """Id of the pipeline whose encoders made the columns (`registry/pipeline.py`)."""
    unconditional: ShardEntry | None = None
    """A shard of one row: the columns of the empty prompt."""

    @model_validator(mode="after")
    def _require_consistency(self) -> Self:
        """Refuse a manifest whose parts do not fit together: it was not written by a preparation."""
        if "train" not in self.splits or not all(self.splits.values()):
            raise ValueError("a split has no shards, or there is none for training")
        if self.statistics.keys() != self.splits.keys():
            raise ValueError("the statistics are of other splits")
        for split, statistics in self.statistics.items():
            if self.class_names and len(statistics.class_counts) not in (0, len(self.class_names)):
                raise ValueError(f"the statistics of split {split} are of other classes")
        if any(size < 1 for column in self.columns for size in column.shape):
            raise ValueError("a column has a size below 1")
        for entry in self.entries:
            columns = self.columns if entry is self.unconditional else self.stored_columns
            entry.require_room([column for column in columns if entry.layout.has(column.name)])
        for entry in (entry for entries in self.splits.values() for entry in entries):
            if missing := [column.name for column in self.stored_columns if not entry.layout.has(column.name)]:
                raise ValueError(f"shard {entry.file} lacks {', '.join(missing)}")
        return self

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of images in each split, the training split first."""
        names = sorted(self.splits, key=lambda split: (split != "train", split))
        return {split: sum(entry.rows for entry in self.splits[split]) for split in names}

    @property
    def entries(self) -> list[ShardEntry]:
        """Every shard."""
        own = [] if self.unconditional is None else [self.unconditional]
        return [*(entry for entries in self.splits.values() for entry in entries), *own]

    @property
    def size_bytes(self) -> int:
        """Total size of the shards."""
        return sum(entry.digest.size_bytes for entry in self.entries)


def fingerprint_of(
    facts: ImageFacts,
    splits: Mapping[str, Sequence[ShardEntry]],
    encoded_by: str | None = None,
    unconditional: ShardEntry | None = None,
) -> str:
    """Return the SHA-256 over what a model sees: shape, classes, columns, and each split's contents."""
    content = {split: [entry.content_sha256 for entry in entries] for split, entries in splits.items()}
    seen: dict[str, JsonValue] = {
        "shape": list(facts.image_shape),
        "classes": list(facts.class_names),
        "content": content,  # type: ignore[dict-item]
    }
    if facts.columns:
        seen["columns"] = [column.model_dump(mode="json") for column in facts.columns]
        seen["encoded_by"] = encoded_by
        seen["unconditional"] = None if unconditional is None else unconditional.content_sha256
    return content_id(seen)


def read_manifest(store: Store) -> DatasetManifest | None:
    """Return the manifest at the root of a store, None if there is none. Raises what `read_record` raises."""
    return read_record(store, MANIFEST_KEY, DatasetManifest)


def write_manifest(store: Store, manifest: DatasetManifest) -> None:
    """Write the manifest, which makes the dataset visible. The shards must be in the store already."""
    store.write(MANIFEST_KEY, encode(manifest))
