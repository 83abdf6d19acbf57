"""What a job is, and what it gives: no torch."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_serializer

from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.names import PredictionType
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.measurement import EvaluationRecord
from progdistill.models.config import DenoiserConfig
from progdistill.models_base import Frozen, content_id
from progdistill.store.documents import Record
from progdistill.store.layout import checkpoint_key, evaluator_key
from progdistill.training.config import (
    ComputeSettings,
    LiveSettings,
    Precision,
    SnapshotSettings,
    TrainingSettings,
)
from progdistill.training.guidance import GuidanceRange
from progdistill.version import NUMERICS_VERSION


class _Spec(Frozen):
    dataset_fingerprint: str
    seed: int
    world_size: int = Field(1, gt=0)
    numerics_version: int = NUMERICS_VERSION

    @property
    def id(self) -> str:
        """SHA-256 of the canonical JSON of this description: equal jobs have one published result."""
        return content_id(self)


class _TrainingSpec(_Spec):
    training: TrainingSettings
    precision: Precision = Field(
        Precision.FLOAT32,
        description="the arithmetic of networks: it changes the numbers",
        exclude_if=lambda precision: precision is Precision.FLOAT32,
    )

    def recorded_training(self) -> dict[str, JsonValue]:
        """What the checkpoint's identity says of its training."""
        recorded: dict[str, JsonValue] = self.training.model_dump(mode="json")
        added: dict[str, JsonValue] = {"precision": str(self.precision)}
        return recorded if self.precision is Precision.FLOAT32 else recorded | added


class TrainBaseSpec(_TrainingSpec):
    """Train a diffusion model from nothing (Algorithm 1)."""

    kind: Literal["train_base"] = "train_base"
    model: DenoiserConfig
    label_dropout: float = Field(0.0, ge=0, lt=1, exclude_if=lambda share: share == 0)

    @property
    def label(self) -> str:
        """What people call this job."""
        return "base model"

    @property
    def purpose(self) -> str:
        """What this job's random numbers are drawn for."""
        return "train base"

    def recorded_training(self) -> dict[str, JsonValue]:
        """What the checkpoint's identity says of its training."""
        added: dict[str, JsonValue] = {"label_dropout": self.label_dropout} if self.label_dropout else {}
        return {**super().recorded_training(), **added}


class _StudentSpec(_TrainingSpec):
    teacher: str = Field(description="checkpoint id")
    student_steps: int = Field(gt=0)
    prediction: PredictionType = Field(description="of the student; the teacher may have another")
    guidance_scale: GuidanceRange | None

    def recorded_training(self) -> dict[str, JsonValue]:
        """What the checkpoint's identity says of its training."""
        ends = None if self.guidance_scale is None else self.guidance_scale.model_dump(mode="json")
        added: dict[str, JsonValue] = {} if ends is None else {"guidance_scale": ends}
        return {**super().recorded_training(), **added}


class DistillSpec(_StudentSpec):
    """Distill a teacher into a student of `student_steps` sampling steps (Algorithm 2)."""

    kind: Literal["distill"] = "distill"
    guidance_scale: GuidanceRange | None = Field(
        None,
        description="of a teacher that takes a guidance scale as an input, and of its student",
        exclude_if=lambda scale: scale is None,
    )

    @property
    def label(self) -> str:
        """What people call this job."""
        return f"student of {self.student_steps} steps"

    @property
    def purpose(self) -> str:
        """What this job's random numbers are drawn for."""
        return f"distil to {self.student_steps} steps"


class GuideSpec(_StudentSpec):
    """Distill guidance: a student of as many steps with the guidance scale as an input (Meng et al. 2023)."""

    kind: Literal["guide"] = "guide"
    guidance_scale: GuidanceRange

    @property
    def label(self) -> str:
        """What people call this job."""
        return f"guided student of {self.student_steps} steps"

    @property
    def purpose(self) -> str:
        """What this job's random numbers are drawn for."""
        return f"guide with {self.student_steps} steps"


TrainingSpec = TrainBaseSpec | DistillSpec | GuideSpec


class _MeasuringSpec(_Spec):
    evaluation: EvaluationSettings

    @field_serializer("evaluation")
    def _as_ever(self, evaluation: EvaluationSettings) -> dict[str, JsonValue]:
        """Without guidance as it was before there was any: equal jobs keep their id."""
        without = {"guidance_scale"} if evaluation.guidance_scale is None else set()
        return evaluation.model_dump(mode="json", exclude=without)

    @property
    def id(self) -> str:
        """That of the job on one rank: no figure depends on how many share the work."""
        return super().id if self.world_size == 1 else self.model_copy(update={"world_size": 1}).id


class PrepareEvaluatorSpec(_MeasuringSpec):
    """Train or fetch the evaluator, and measure the real images with it."""

    kind: Literal["prepare_evaluator"] = "prepare_evaluator"

    @property
    def label(self) -> str:
        """What people call this job."""
        return "evaluator"


class EvaluateSpec(_MeasuringSpec):
    """Measure one checkpoint and its baseline at one number of steps."""

    kind: Literal["evaluate"] = "evaluate"
    checkpoint: str
    baseline: str | None
    sampling_steps: int

    @property
    def label(self) -> str:
        """What people call this job."""
        return f"evaluation at {self.sampling_steps} steps"


JobSpec = Annotated[
    TrainBaseSpec | DistillSpec | GuideSpec | PrepareEvaluatorSpec | EvaluateSpec,
    Field(discriminator="kind"),
]


class JobRequest(Record):
    """A job and the provenance it runs in; the provenance are no part of its identity."""

    spec: JobSpec
    store: str
    dataset: DatasetInfo
    snapshots: SnapshotSettings
    compute: ComputeSettings
    created_by: str
    configuration: dict[str, JsonValue]
    driver_process_id: int | None = Field(None, description="the worker stops when that process is gone")
    live: LiveSettings | None = Field(
        None, description="what training says to programs while it goes on; None: nothing"
    )

    def references(self) -> Iterable[str]:
        """See Record.references: the checkpoints that the job starts from."""
        match self.spec:
            case DistillSpec(teacher=teacher) | GuideSpec(teacher=teacher):
                checkpoints: tuple[str | None, ...] = (teacher,)
            case EvaluateSpec(checkpoint=checkpoint, baseline=baseline):
                checkpoints = (checkpoint, baseline)
            case _:
                checkpoints = ()
        return (checkpoint_key(one) for one in checkpoints if one is not None)


class JobResult(Record):
    """What a finished job published, and how long its computing took (start-up apart)."""

    schema_version: Literal[2] = 2
    job_id: str
    output: str = Field(description="checkpoint or evaluator id, or an evaluation record as JSON")
    started_at: datetime
    finished_at: datetime
    device: str
    loss_curve: tuple[tuple[int, float], ...] = ()

    def references(self) -> Iterable[str]:
        """See Record.references: what the job published."""
        if self.output.startswith("{"):
            return EvaluationRecord.model_validate_json(self.output).references()
        return (checkpoint_key(self.output) if self.loss_curve else evaluator_key(self.output),)
