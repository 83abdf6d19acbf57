"""Settings of a training run, for a base model and for a student alike."""

from enum import StrEnum
from typing import Literal

from pydantic import Field, PositiveInt

from progdistill.diffusion.names import LossWeight, PredictionType
from progdistill.models_base import Frozen


class LearningRateSchedule(StrEnum):
    """How the learning rate moves after warm-up."""

    CONSTANT = "constant"
    LINEAR_TO_ZERO = "linear_to_zero"


class TrainingSettings(Frozen, allow_inf_nan=False):
    """What decides the numbers that training gives; part of a job's identity, field by field."""

    updates: int = Field(gt=0)
    batch_size: int = Field(gt=0, le=1_000_000, description="images per update over all ranks together")
    learning_rate: float = Field(gt=0)
    learning_rate_schedule: LearningRateSchedule = LearningRateSchedule.CONSTANT
    warmup_updates: int = Field(0, ge=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0, description="decoupled (AdamW)")
    gradient_clip_norm: float = Field(1.0, gt=0)
    ema_decay: float | None = Field(None, ge=0, lt=1, description="None trains without a moving average")
    loss_weight: LossWeight
    horizontal_flip: bool = False


class BaseTrainingSettings(TrainingSettings):
    """Settings of the base model's training."""

    label_dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of labels replaced by 'no class', which makes guidance possible; None: decided by"
        " whether the run is guided",
    )

    def loop_settings(self) -> TrainingSettings:
        """Those settings that every training has."""
        return TrainingSettings(**self.model_dump(exclude={"label_dropout"}))


class DistillationSettings(TrainingSettings):
    """Settings of every distillation stage; the paper gives the last stages more updates."""

    prediction: PredictionType | None = Field(
        None, description="what students predict, if not what their first teacher predicts"
    )
    updates_at_steps: dict[int, PositiveInt] = Field(
        default_factory=dict, description="updates of the stages whose student has that many sampling steps"
    )
    guidance_updates: int | None = Field(
        None, gt=0, description="updates of the stage that distills guidance; None: as many as others"
    )

    def for_stage(self, student_steps: int) -> TrainingSettings:
        """The settings of the stage whose student takes `student_steps` sampling steps."""
        return self._with_updates(self.updates_at_steps.get(student_steps, self.updates))

    def guidance_settings(self) -> TrainingSettings:
        """The settings of the stage that makes guidance an input."""
        return self._with_updates(self.guidance_updates or self.updates)

    def _with_updates(self, updates: int) -> TrainingSettings:
        others = {"updates", "updates_at_steps", "guidance_updates", "prediction"}
        return TrainingSettings(updates=updates, **self.model_dump(exclude=others))


class SnapshotSettings(Frozen, allow_inf_nan=False):
    """How often a stage saves where it stands. Changes no numbers, so it is part of no identity."""

    interval_updates: int = Field(1000, gt=0)
    keep: int = Field(2, gt=0)


class Precision(StrEnum):
    """The arithmetic of networks. Weights, targets, losses, optimizer and average are float32 in any case."""

    FLOAT32 = "float32"
    TF32 = "tf32"
    """float32 whose products have TensorFloat-32's 10 bits of mantissa; CUDA GPUs only."""
    BFLOAT16 = "bfloat16"


class LiveSettings(Frozen, allow_inf_nan=False):
    """What a training shows of itself while it goes on. Changes no numbers, so it is part of no identity."""

    interval_seconds: float = Field(10.0, ge=0, description="between two reports of loss, rate and ETA")
    samples_interval_seconds: float = Field(
        30.0, ge=0, description="between two drawings of samples, which take 5 % of the time at most"
    )
    samples: int = Field(10, ge=0, description="drawn each time, of classes one after the other; 0: none")
    most_sampling_steps: int = Field(
        16, gt=0, description="they are drawn with as many steps as the student is for, up to this"
    )


class ComputeSettings(Frozen, allow_inf_nan=False):
    """Where and how arithmetic runs. Of these only ranks and precision are part of a job's identity."""

    device: str = Field("auto", pattern="^(auto|cpu|cuda|tpu)$", description="cuda is AMD's GPUs too")
    world_size: int | None = Field(
        None, gt=0, description="processes of a job; None: one per accelerator, else one"
    )
    threads_per_rank: int | None = Field(
        None, gt=0, description="CPU threads; None: all cores, shared evenly"
    )
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = Field(
        "auto", description="of networks; auto: bfloat16 on accelerators that have it, float32 on CPUs"
    )
    micro_batch_size: int | None = Field(
        None, gt=0, description="images a rank takes at a time; None: its whole share of the batch"
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="torch.compile networks; auto: on accelerators, unless weights are sharded"
    )
    activation_checkpointing: bool = Field(
        False, description="keep less for the backward pass and compute it again: less memory, more time"
    )
    parallelism: Literal["auto", "ddp", "fsdp"] = Field(
        "auto", description="every rank has all weights, or a share; auto: ddp where they fit"
    )
