"""Settings of a training run, for a base model and for a student alike."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, model_validator

from progdistill.diffusion.names import LossWeight, PredictionType
from progdistill.errors import UsageError

GUIDED_LABEL_DROPOUT = 0.1
"""Share of labels dropped for a model that is to be guided (Ho & Salimans 2021 found 0.1 and 0.2 best)."""


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


class BaseTrainingSettings(TrainingSettings):
    """Settings of the base model's training."""

    label_dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of labels replaced by 'no class', which makes guidance possible;"
        f" None: {GUIDED_LABEL_DROPOUT} in a guided run, else 0",
    )

    def of_the_loop(self) -> TrainingSettings:
        """Those settings that every training has."""
        return TrainingSettings(**self.model_dump(exclude={"label_dropout"}))


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


class GuidanceRange(BaseModel):
    """The guidance weights w a student learns to take as an input; v̂ + w·(v̂ − v̂_unconditional) guides."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lowest: float = Field(ge=0, allow_inf_nan=False)
    highest: float = Field(ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _is_not_inverted(self) -> "GuidanceRange":
        if self.highest < self.lowest:
            raise ValueError(f"the range goes down from {self.lowest:g} to {self.highest:g}")
        return self

    def __contains__(self, weight: float) -> bool:
        return self.lowest <= weight <= self.highest

    def __str__(self) -> str:
        return f"{self.lowest:g}:{self.highest:g}"


def parse_guidance(text: str) -> GuidanceRange:
    """Turn `LOWEST:HIGHEST` into a range of guidance weights; `W` alone is a range of one weight.

    Raises UsageError for anything but one or two numbers, 0 ≤ lowest ≤ highest.
    """
    lowest, separator, highest = text.partition(":")
    how = "write --guidance LOWEST:HIGHEST with 0 ≤ LOWEST ≤ HIGHEST, such as 0:4"
    try:
        ends = float(lowest), float(highest if separator else lowest)
    except ValueError:
        raise UsageError(f"--guidance {text!r} is no range of numbers; {how}") from None
    if not 0 <= ends[0] <= ends[1] < float("inf"):
        raise UsageError(f"--guidance {text!r} is no range of weights; {how}")
    return GuidanceRange(lowest=ends[0], highest=ends[1])


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
