"""What an evaluation asks and what it answers, as records of a store: no torch."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from progdistill.diffusion.names import SamplerName
from progdistill.models_base import Frozen, content_id
from progdistill.registry.checkpoint import CheckpointKind
from progdistill.store.digest import FileDigest, Sha256

FOLDER = "evaluations/"


class MeasurementSpec(Frozen):
    """Everything that decides a measurement's figures: equal questions have one answer."""

    checkpoint_id: Sha256
    sampler: SamplerName
    gamma: float | None = Field(description="log-scale position of a stochastic sampler's variance")
    guidance: float | None = Field(
        default=None,
        exclude_if=lambda guidance: guidance is None,
        description="weight; None, as every question before there were weights: no guidance",
    )
    class_counts: tuple[int, ...] | None = Field(
        default=None,
        exclude_if=lambda counts: counts is None,
        description="in whose shares samples show the classes; None: all alike",
    )
    clip: bool
    steps: int
    samples: int
    seed: int
    shown_samples: int
    evaluator_id: Sha256
    reference_fingerprint: str
    reference_split: str
    numerics_version: int

    @property
    def id(self) -> str:
        """SHA-256 of the canonical JSON of this question."""
        return content_id(self)

    @property
    def key(self) -> str:
        """Where the answer stands in a store."""
        return f"{FOLDER}{self.checkpoint_id}/{self.id}.json"


class ContactSheet(Frozen):
    """A PNG in the store with the first samples one below the other, and what it takes to cut them apart."""

    sha256: Sha256
    size_bytes: int
    images: int
    labels: tuple[int, ...] | None = Field(description="class of each image; None where there are no classes")

    @property
    def file(self) -> FileDigest:
        """The digest and size of the picture."""
        return FileDigest(self.sha256, self.size_bytes)


class Neighbors(Frozen):
    """A PNG in the store: each of some samples, then its nearest training images, the nearest first."""

    schema_version: Literal[1] = 1
    sheet_sha256: Sha256
    sheet_bytes: int
    samples: int
    nearest: int
    mirrored: bool = Field(
        default=False,
        exclude_if=lambda mirrored: not mirrored,
        description="whether training images were compared in both orientations, and show the nearer one",
    )

    @property
    def file(self) -> FileDigest:
        """The digest and size of the picture."""
        return FileDigest(self.sheet_sha256, self.sheet_bytes)


class Measurement(Frozen):
    """How far the samples of one checkpoint, drawn in one way, are from the real images."""

    schema_version: Literal[1] = 1
    question: MeasurementSpec
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
    created_at: datetime
    shown: ContactSheet | None

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of sampling and evaluation together."""
        return self.sampling_seconds + self.evaluation_seconds

    @property
    def files(self) -> tuple[FileDigest, ...]:
        """The picture that it mentions, if any."""
        return () if self.shown is None else (self.shown.file,)


class EvaluationRecord(Frozen):
    """A checkpoint at `sampling_steps`, beside the undistilled model at equally many steps.

    A student may be sampled stochastically too (Figure 6). Where nothing was measured, `not_evaluated_reason`
    says why. Baselines are None where there is no undistilled model to compare with.
    """

    schema_version: Literal[1] = 1
    checkpoint_id: Sha256
    kind: CheckpointKind
    sampling_steps: int
    distilled: Measurement | None = None
    baseline_ddim: Measurement | None = None
    baseline_ancestral: Measurement | None = None
    distilled_ancestral: Measurement | None = None
    neighbors: Neighbors | None = None
    not_evaluated_reason: str | None = None

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """The distinct measurements: the base model's own is its DDIM baseline, counted once."""
        found = (self.distilled, self.baseline_ddim, self.baseline_ancestral, self.distilled_ancestral)
        return tuple({m.question.id: m for m in found if m is not None}.values())

    @property
    def files(self) -> tuple[FileDigest, ...]:
        """The pictures that it mentions."""
        neighbors = () if self.neighbors is None else (self.neighbors.file,)
        return (*(file for measurement in self.measurements for file in measurement.files), *neighbors)
