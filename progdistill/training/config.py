"""Settings of a training run, for a base model and for a student alike."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from progdistill.diffusion.names import LossWeight, PredictionType


class LearningRateSchedule(StrEnum):
    """How the learning rate moves after warm-up."""

    CONSTANT = "constant"
    LINEAR_TO_ZERO = "linear_to_zero"


class TrainingSettings(BaseModel):
    """What decides the numbers that training gives; part of a job's identity, field by field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    updates: int = Field(gt=0)
    batch_size: int = Field(gt=0, description="images per update over all ranks together")
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


class DistillationSettings(TrainingSettings):
    """Settings of every distillation stage; the paper gives the last stages more updates."""

    prediction: PredictionType | None = Field(
        None, description="what students predict, if not what their first teacher predicts"
    )
    updates_at_steps: dict[int, int] = Field(
        default_factory=dict, description="updates of the stages whose student has that many sampling steps"
    )

    def for_stage(self, student_steps: int) -> TrainingSettings:
        """The settings of the stage whose student takes `student_steps` sampling steps."""
        fields = self.model_dump(exclude={"updates_at_steps", "prediction"})
        fields["updates"] = self.updates_at_steps.get(student_steps, self.updates)
        return TrainingSettings(**fields)


class SnapshotSettings(BaseModel):
    """How often a stage saves where it stands. Changes no numbers, so it is part of no identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    interval_updates: int = Field(1000, gt=0)
    keep: int = Field(2, gt=0)


class ComputeSettings(BaseModel):
    """Where arithmetic runs; it is float32 everywhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str = Field("auto", pattern="^(auto|cpu|cuda)$")
    ranks: int | None = Field(
        None, gt=0, description="processes of a job; None: one per accelerator, else one"
    )
    threads_per_rank: int | None = Field(
        None, gt=0, description="CPU threads; None: all cores, shared evenly"
    )
