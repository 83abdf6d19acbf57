"""Everything a report is made from, as one document that is kept beside it: no torch."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

INPUT_FILE = "input.json"


class SampleImages(BaseModel):
    """A few samples as one PNG, one image below the other."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    png: bytes = Field(repr=False)
    images: int
    labels: tuple[int, ...] | None = None


class NeighbourImages(BaseModel):
    """Samples as one PNG, each followed by its nearest training images."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    png: bytes = Field(repr=False)
    samples: int
    nearest: int
    mirrored: bool = Field(default=False, description="whether training images count in both orientations")


class LossPoint(BaseModel):
    """The mean training loss around an update."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    update: int
    loss: float


class StageEntry(BaseModel):
    """One checkpoint of the run: how it was trained, and how near its samples come to the real images."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    num_steps: int
    id: str
    parent: str | None
    kind: str
    distance: float | None = None
    distance_name: str | None = None
    inception_score: float | None = None
    baseline_ddim: float | None = Field(
        default=None, description="distance of the undistilled model with DDIM"
    )
    baseline_ancestral: float | None = Field(default=None, description="and with ancestral sampling")
    distilled_ancestral: float | None = Field(
        default=None, description="distance of this checkpoint with ancestral sampling"
    )
    kernel_distance: float | None = None
    precision: float | None = None
    recall: float | None = None
    baseline_ancestral_gamma: float | None = Field(
        default=None, description="log-scale position of the baseline's variance between its bounds"
    )
    evaluated_samples: int | None = Field(default=None, description="images behind each distance")
    guidance: float | None = Field(default=None, description="weight that samples were guided with")
    not_evaluated_reason: str | None = None
    updates: int | None = None
    images: int | None = Field(default=None, description="training images seen")
    seconds: float | None = Field(default=None, description="wall-clock seconds of training")
    images_per_second: float | None = None
    sampling_seconds: float | None = Field(
        default=None, description="of this stage's measurements, baselines included"
    )
    evaluation_seconds: float | None = Field(
        default=None, description="features and statistics of those samples"
    )
    device: str | None = None
    creator_run: str | None = Field(
        default=None, description="run that trained it, which may be an earlier one"
    )
    samples: SampleImages | None = None
    baseline_ddim_samples: SampleImages | None = None
    neighbours: NeighbourImages | None = None
    loss_curve: tuple[LossPoint, ...] = ()


class Timings(BaseModel):
    """Where a run's wall-clock time went, in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    total_seconds: float
    training_seconds: float
    sampling_seconds: float
    evaluation_seconds: float
    overhead_seconds_per_stage: float = Field(description="outside training, sampling and evaluation")
    stored_seconds: float = Field(
        default=0.0, description="training and measuring that the store held already, in none of the others"
    )


class ReportInput(BaseModel):
    """A run as its report tells it; `checkpoints` go from most sampling steps to fewest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    run_id: str
    flow: str = "DistillFlow"
    created_at: datetime
    dataset: str
    dataset_fingerprint: str
    class_names: tuple[str, ...] = ()
    evaluator: str
    evaluator_id: str | None = None
    seed: int
    code_version: str
    store: str
    configuration: dict[str, JsonValue]
    checkpoints: tuple[StageEntry, ...]
    timings: Timings | None = None
    price_per_hour: float | None = Field(
        default=None, ge=0, description="of the machine, in any currency; None where nobody said"
    )
    lineage: str = Field(default="", description="the tree of teachers and students, drawn in text")
