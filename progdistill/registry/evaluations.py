"""Measurements of a checkpoint: what decides one, its record in a store, and the one that stands for it."""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from pydantic import Field

from progdistill.diffusion.names import SamplerName
from progdistill.errors import ProgdistillError
from progdistill.models_base import Frozen, content_id
from progdistill.registry.checkpoint import CheckpointManifest
from progdistill.store.base import Store
from progdistill.store.digest import FileDigest, Sha256
from progdistill.store.documents import Record, Timestamp, list_records
from progdistill.store.layout import blob_key, checkpoint_key, evaluation_key, evaluations_prefix, evaluator_key

Protocol = Literal["whole", "published"]
"""How metrics are made of samples: of all at once, or of splits, subsets and counts as in publications."""


class MeasurementSpec(Frozen):
    """Everything that decides the figures of a measurement: equal specs give equal figures."""

    checkpoint_id: Sha256
    sampler: SamplerName
    sampling_steps: int
    gamma: float | None = Field(description="log-scale position of a stochastic sampler's variance; None for DDIM")
    guidance_scale: float | None = Field(default=None, description="None: sampled without guidance")
    class_counts: tuple[int, ...] | None = Field(
        default=None, description="classes are sampled in these proportions; None: all equally often, or there are none"
    )
    clip: bool
    samples: int
    seed: int
    shown_samples: int
    trial: bool = Field(default=False, description="made to choose gamma, not to be reported")
    evaluator_id: Sha256
    reference_fingerprint: str
    reference_split: str
    numerics_version: int
    protocol: Protocol = "whole"

    @property
    def id(self) -> str:
        """SHA-256 of the canonical JSON of this spec, without the default protocol: once it was the only one."""
        return content_id(self.model_dump(mode="json", exclude={"protocol"} if self.protocol == "whole" else set()))

    @property
    def key(self) -> str:
        """Key of the measurement in a store."""
        return evaluation_key(self.checkpoint_id, self.id)


class ContactSheet(Frozen):
    """A PNG in the store: images one below the other, with what it takes to cut them apart."""

    file: FileDigest
    images: int
    labels: tuple[int, ...] | None = Field(description="class of each image; None without classes")
    prompts: tuple[str, ...] | None = Field(default=None, description="what each image was drawn for, in words")


class Measurement(Record):
    """How far the samples of one checkpoint, drawn in one way, are from the real images."""

    schema_version: Literal[2] = 2
    spec: MeasurementSpec
    distance: float
    distance_name: str
    kernel_distance: float | None = Field(
        default=None, description="squared maximum mean discrepancy; KID for Inception"
    )
    precision: float | None = None
    recall: float | None = None
    inception_score: float | None = Field(description="None where the evaluator gives no class probabilities")
    sampling_seconds: float
    evaluation_seconds: float
    device: str
    created_at: Timestamp
    shown: ContactSheet | None

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of sampling and evaluation together."""
        return self.sampling_seconds + self.evaluation_seconds

    @property
    def files(self) -> tuple[FileDigest, ...]:
        """The blobs that this record refers to."""
        return () if self.shown is None else (self.shown.file,)

    def references(self) -> Iterable[str]:
        """See Record.references."""
        yield checkpoint_key(self.spec.checkpoint_id)
        yield evaluator_key(self.spec.evaluator_id)
        yield from (blob_key(file.sha256) for file in self.files)


def evaluations_of(
    store: Store, checkpoint_id: str, unreadable: list[ProgdistillError] | None = None
) -> list[Measurement]:
    """Read all measurements of a checkpoint, trials included.

    A damaged record raises LostInvariantError; with `unreadable` the error is appended there instead.
    """
    return list(list_records(store, evaluations_prefix(checkpoint_id), Measurement, unreadable))


def best_record(manifest: CheckpointManifest, measurements: list[Measurement]) -> Measurement | None:
    """Choose the measurement that stands for a checkpoint, never a trial; None if there is none.

    A student counts at the number of steps it was distilled to, any other model at the most steps measured.
    DDIM comes before other samplers, then the lowest guidance scale, the most samples, the newest.
    """
    steps = manifest.identity.sampling_steps
    eligible = [m for m in measurements if not m.spec.trial and steps in (None, m.spec.sampling_steps)]

    def precedence(measurement: Measurement) -> tuple[int, bool, float, int, datetime]:
        spec = measurement.spec
        ddim = spec.sampler is SamplerName.DDIM
        return spec.sampling_steps, ddim, -(spec.guidance_scale or 0.0), spec.samples, measurement.created_at

    return max(eligible, key=precedence, default=None)
