"""The record of an evaluation: a checkpoint's measurements beside those of the undistilled model."""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from progdistill.registry.checkpoint import CheckpointKind
from progdistill.registry.evaluations import ContactSheet, Measurement
from progdistill.store.digest import FileDigest, Sha256
from progdistill.store.documents import Record
from progdistill.store.layout import blob_key, checkpoint_key, evaluator_key


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


class TeacherComparison(Record):
    """A checkpoint beside the undistilled model's images at many steps, sample by sample from the same noise."""

    schema_version: Literal[1] = 1
    teacher_id: Sha256
    teacher_steps: int
    samples: int
    seed: int
    guidance_scale: float | None
    distance: float = Field(description="root mean square difference of pixels, 0 to 1")
    teacher_distance: float | None = Field(
        description="that of the undistilled model at the checkpoint's number of steps; None for that model itself"
    )
    evaluator_id: Sha256 | None = Field(default=None, description="whose features the Fréchet distances are of")
    frechet: float | None = Field(
        default=None, description="Fréchet distance between the checkpoint's images and the undistilled model's"
    )
    teacher_frechet: float | None = Field(
        default=None, description="that of the undistilled model at the checkpoint's number of steps"
    )
    diversity: float | None = Field(
        default=None, description="root mean square difference of pixels between images of one prompt or class, 0 to 1"
    )
    teacher_diversity: float | None = Field(default=None, description="that of the undistilled model's images")
    clip_model_sha256: Sha256 | None = Field(default=None, description="of the CLIP model that gave the scores")
    clip_score: float | None = Field(
        default=None, description="100 × the mean cosine of the embeddings of an image and its prompt"
    )
    teacher_clip_score: float | None = Field(default=None, description="that of the undistilled model's images")
    seconds: float
    shown: ContactSheet | None
    teacher_shown: ContactSheet | None

    def references(self) -> Iterable[str]:
        """See Record.references."""
        yield checkpoint_key(self.teacher_id)
        if self.evaluator_id is not None:
            yield evaluator_key(self.evaluator_id)
        yield from (blob_key(sheet.file.sha256) for sheet in (self.shown, self.teacher_shown) if sheet is not None)


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
    to_teacher: TeacherComparison | None = None
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
        sheets = () if self.to_teacher is None else (self.to_teacher.shown, self.to_teacher.teacher_shown)
        pictures = (sheet.file for sheet in sheets if sheet is not None)
        return (*(file for measurement in self.measurements for file in measurement.files), *neighbors, *pictures)

    def references(self) -> Iterable[str]:
        """See Record.references."""
        yield checkpoint_key(self.checkpoint_id)
        for part in (*self.measurements, self.neighbors, self.to_teacher):
            yield from () if part is None else part.references()
