"""The record of an evaluation: a checkpoint's measurements beside those of the undistilled model."""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from progdistill.registry.checkpoint import CheckpointKind
from progdistill.registry.evaluations import Measurement
from progdistill.store.digest import FileDigest, Sha256
from progdistill.store.documents import Record
from progdistill.store.layout import blob_key, checkpoint_key


class Neighbors(Record):
    """A contact sheet in the store: each of some samples, then its nearest training images, nearest first."""

    schema_version: Literal[2] = 2
    file: FileDigest
    samples: int
    nearest: int
    mirrored: bool = Field(
        description="whether training images were compared in both orientations and the nearer one is shown"
    )

    def references(self) -> Iterable[str]:
        """See Record.references."""
        return (blob_key(self.file.sha256),)


class EvaluationRecord(Record):
    """A checkpoint at `sampling_steps`, beside the undistilled model at as many steps.

    The baselines are None if there is no undistilled model to compare with, `distilled_ancestral` unless
    students are sampled stochastically too (Figure 6). If nothing was measured, `not_evaluated_reason` says
    why.
    """

    schema_version: Literal[2] = 2
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
        """The distinct measurements; a base model is its own DDIM baseline, which counts once."""
        found = (self.distilled, self.baseline_ddim, self.baseline_ancestral, self.distilled_ancestral)
        return tuple({m.spec.id: m for m in found if m is not None}.values())

    @property
    def files(self) -> tuple[FileDigest, ...]:
        """The blobs that this record refers to."""
        neighbors = () if self.neighbors is None else (self.neighbors.file,)
        return (*(file for measurement in self.measurements for file in measurement.files), *neighbors)

    def references(self) -> Iterable[str]:
        """See Record.references."""
        yield checkpoint_key(self.checkpoint_id)
        for part in (*self.measurements, self.neighbors):
            yield from () if part is None else part.references()
