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
    """A PNG in the store: each of some samples, then its nearest training images, the nearest first."""

    schema_version: Literal[2] = 2
    file: FileDigest
    samples: int
    nearest: int
    mirrored: bool = Field(
        default=False,
        description="whether training images were compared in both orientations, and show the nearer one",
    )

    def references(self) -> Iterable[str]:
        """See Record.references."""
        return (blob_key(self.file.sha256),)


class EvaluationRecord(Record):
    """A checkpoint at `sampling_steps`, beside the undistilled model at equally many steps.

    A student may be sampled stochastically too (Figure 6). Where nothing was measured, `not_evaluated_reason`
    says why. Baselines are None where there is no undistilled model to compare with.
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
        """The distinct measurements: the base model's own is its DDIM baseline, counted once."""
        found = (self.distilled, self.baseline_ddim, self.baseline_ancestral, self.distilled_ancestral)
        return tuple({m.spec.id: m for m in found if m is not None}.values())

    @property
    def files(self) -> tuple[FileDigest, ...]:
        """The pictures that it mentions."""
        neighbors = () if self.neighbors is None else (self.neighbors.file,)
        return (*(file for measurement in self.measurements for file in measurement.files), *neighbors)

    def references(self) -> Iterable[str]:
        """See Record.references."""
        yield checkpoint_key(self.checkpoint_id)
        for part in (*self.measurements, self.neighbors):
            yield from () if part is None else part.references()
