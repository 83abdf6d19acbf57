"""Job specs, requests and results."""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import Field, JsonValue

from progdistill.data.columns import Column
from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.grid import AngleGrid, Grid
from progdistill.diffusion.names import PredictionType
from progdistill.errors import LostInvariantError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.measurement import EvaluationRecord
from progdistill.models.config import DenoiserConfig
from progdistill.models_base import Frozen, content_id
from progdistill.store.digest import Sha256
from progdistill.store.documents import Record, Timestamp
from progdistill.store.layout import checkpoint_key, evaluator_key, pipeline_key
from progdistill.training.config import (
    ComputeSettings,
    LiveSettings,
    LoraSettings,
    Precision,
    SnapshotSettings,
    StageObjective,
    StatesFrom,
    TrainingSettings,
)
from progdistill.training.guidance import GuidanceRange
from progdistill.version import NUMERICS_VERSION

PAPERS_OBJECTIVE = StageObjective()


class _Spec(Frozen):
    label_format: ClassVar[str]

    dataset_fingerprint: str
    seed: int
    world_size: int = Field(1, gt=0)
    numerics_version: int = NUMERICS_VERSION

    @property
    def id(self) -> str:
        """SHA-256 of the canonical JSON of this description: equal jobs have one published result."""
        return content_id(self)

    @property
    def label(self) -> str:
        """The name of this job in logs and messages."""
        return self.label_format.format(self)


class _TrainingSpec(_Spec):
    purpose_format: ClassVar[str]
    """Seeds random numbers: it must not change."""

    training: TrainingSettings
    precision: Precision = Field(Precision.FLOAT32, description="the arithmetic of networks: it changes the numbers")

    @property
    def purpose(self) -> str:
        """Seeds this job's random numbers."""
        return self.purpose_format.format(self)

    def recorded_training(self) -> dict[str, JsonValue]:
        """Return the training settings that the checkpoint's identity records."""
        names = {
            *("precision", "label_dropout", "guidance_scale", "teacher_steps", "frozen_precision"),
            *("states_from", "trajectory_steps", "objective"),
        }
        others = self.model_dump(mode="json", include=names)
        return self.training.model_dump(mode="json") | others


class TrainBaseSpec(_TrainingSpec):
    """Train a base model (Algorithm 1)."""

    kind: Literal["train_base"] = "train_base"
    label_format = "base model"
    purpose_format = "train base"
    model: DenoiserConfig
    label_dropout: float = Field(0.0, ge=0, lt=1)


class _StudentSpec(_TrainingSpec):
    teacher: str = Field(description="checkpoint id")
    student_steps: int = Field(gt=0)
    prediction: PredictionType = Field(description="of the student; the teacher may have another")
    guidance_scale: GuidanceRange | None = Field(None, description="an input of the teacher and of its student")
    grid: Grid = Field(AngleGrid(), description="the times of the student's steps")
    states_from: StatesFrom = Field(StatesFrom.DATA, description="where noisy states come from")
    trajectory_steps: int | None = Field(None, description="upper limit of those of a trajectory; None: from data")
    lora: LoraSettings | None = Field(None, description="the student is an adapter; None: it has weights of its own")
    frozen_precision: Literal["float32", "bfloat16"] = Field("float32", description="of weights that are not trained")


class DistillSpec(_StudentSpec):
    """Distill a teacher into a student of `student_steps` sampling steps (Algorithm 2)."""

    kind: Literal["distill"] = "distill"
    label_format = "student of {0.student_steps} steps"
    purpose_format = "distil to {0.student_steps} steps"
    teacher_steps: int = Field(2, ge=2, description="that the student learns to do in one")
    # Left out where it is the paper's, so that jobs and checkpoints from before it keep their ids.
    objective: StageObjective = Field(PAPERS_OBJECTIVE, exclude_if=lambda objective: objective == PAPERS_OBJECTIVE)


class GuideSpec(_StudentSpec):
    """Distill guidance: a student of as many steps with the guidance scale as an input (Meng et al. 2023).

    Where the student's network has no place for that input, a range of one scale is folded into its weights.
    """

    kind: Literal["guide"] = "guide"
    label_format = "guided student of {0.student_steps} steps"
    purpose_format = "guide with {0.student_steps} steps"
    guidance_scale: GuidanceRange


TrainingSpec = TrainBaseSpec | DistillSpec | GuideSpec


class _MeasuringSpec(_Spec):
    evaluation: EvaluationSettings

    @property
    def id(self) -> str:
        """The id of the job on one rank: no number depends on the world size."""
        return super().id if self.world_size == 1 else self.model_copy(update={"world_size": 1}).id


class PrepareEvaluatorSpec(_MeasuringSpec):
    """Train or fetch the evaluator, and measure the real images with it."""

    kind: Literal["prepare_evaluator"] = "prepare_evaluator"
    label_format = "evaluator"


class EvaluateSpec(_MeasuringSpec):
    """Measure one checkpoint and its baseline at one number of steps."""

    kind: Literal["evaluate"] = "evaluate"
    label_format = "evaluation at {0.sampling_steps} steps"
    checkpoint: str
    baseline: str | None
    sampling_steps: int


class EncodeSpec(_Spec):
    """Encode a dataset with a pipeline's encoders, for the network of a checkpoint or of the same pipeline."""

    kind: Literal["encode"] = "encode"
    label_format = "encoding {0.name}"
    name: str = Field(description="of the encoded dataset")
    out: str = Field(description="its folder or URI")
    pipeline: Sha256
    sample_shape: tuple[int, int, int] = Field(description="of the network's latents")
    columns: tuple[Column, ...] = Field(description="that the network takes from prompts; empty: none")
    template: str | None = Field(description="makes the prompt of a class; None: captions are the prompts")
    negative_prompt: str = Field("", description="what guidance leads away from; empty: as the stock pipeline")
    keep_images: bool = False
    half: bool = Field(False, description="store embeddings in float16")
    batch_size: int = Field(16, gt=0, description="samples encoded at a time")
    precision: Precision = Field(Precision.FLOAT32, description="of text encoders; the VAE's is float32")

    @property
    def id(self) -> str:
        """The id of the job on one rank: the data do not depend on the world size."""
        return super().id if self.world_size == 1 else self.model_copy(update={"world_size": 1}).id


JobSpec = Annotated[TrainingSpec | PrepareEvaluatorSpec | EvaluateSpec | EncodeSpec, Field(discriminator="kind")]


class JobRequest(Record):
    """A job and where and for whom it runs; only `spec` is part of its identity."""

    spec: JobSpec
    store: str
    dataset: DatasetInfo
    snapshots: SnapshotSettings
    compute: ComputeSettings
    created_by: str
    configuration: dict[str, JsonValue]
    driver_process_id: int | None = Field(None, description="the worker stops when this process is gone")
    live: LiveSettings | None = Field(None, description="progress events and samples during training; None: neither")

    @property
    def log_fields(self) -> dict[str, str]:
        """What JSON log lines say of the job."""
        return {"job": self.spec.id, "stage": self.spec.label, "run": self.created_by}

    def references(self) -> Iterable[str]:
        """See Record.references: the checkpoints that the job starts from."""
        match self.spec:
            case DistillSpec(teacher=teacher) | GuideSpec(teacher=teacher):
                yield checkpoint_key(teacher)
            case EvaluateSpec(checkpoint=checkpoint, baseline=baseline):
                yield checkpoint_key(checkpoint)
                if baseline is not None:
                    yield checkpoint_key(baseline)
            case EncodeSpec(pipeline=pipeline):
                yield pipeline_key(pipeline)


class CheckpointOutput(Frozen):
    """What a training job publishes."""

    kind: Literal["checkpoint"] = "checkpoint"
    checkpoint_id: Sha256
    loss_curve: tuple[tuple[int, float], ...] = Field((), description="(update, mean loss since the point before)")


class EvaluatorOutput(Frozen):
    """What a job that prepares an evaluator publishes."""

    kind: Literal["evaluator"] = "evaluator"
    evaluator_id: Sha256


class EvaluationOutput(Frozen):
    """What an evaluation publishes."""

    kind: Literal["evaluation"] = "evaluation"
    record: EvaluationRecord


class DatasetOutput(Frozen):
    """What an encoding publishes, outside the store."""

    kind: Literal["dataset"] = "dataset"
    fingerprint: Sha256
    location: str


JobOutput = CheckpointOutput | EvaluatorOutput | EvaluationOutput | DatasetOutput
Output = TypeVar("Output", bound=JobOutput)


class JobResult(Record):
    """What a finished job published, and how long its computing took (start-up apart)."""

    schema_version: Literal[2] = 2
    job_id: str
    output: JobOutput = Field(discriminator="kind")
    started_at: Timestamp
    finished_at: Timestamp
    device: str

    def output_of(self, kind: type[Output]) -> Output:
        """Return the output of a job that gives this kind.

        Raises:
            LostInvariantError: If the job gave another kind.
        """
        if not isinstance(self.output, kind):
            raise LostInvariantError(f"the result of job {self.job_id} is of kind {self.output.kind}")
        return self.output

    def references(self) -> Iterable[str]:
        """See Record.references: what the job published."""
        match self.output:
            case CheckpointOutput(checkpoint_id=checkpoint_id):
                return (checkpoint_key(checkpoint_id),)
            case EvaluatorOutput(evaluator_id=evaluator_id):
                return (evaluator_key(evaluator_id),)
            case EvaluationOutput(record=record):
                return record.references()
            case DatasetOutput():
                return ()
