"""Training, snapshot, live-progress and compute settings; the values of presets are in `config/presets.py`."""

from enum import StrEnum
from typing import Literal

from pydantic import Field, PositiveInt

from progdistill.diffusion.names import LossName, LossWeight, ObjectiveName, PredictionType, TeacherSolver
from progdistill.models_base import Frozen


class LearningRateSchedule(StrEnum):
    """The learning rate after warm-up."""

    CONSTANT = "constant"
    LINEAR_TO_ZERO = "linear_to_zero"


class OptimizerName(StrEnum):
    """How a gradient becomes an update."""

    ADAMW = "adamw"
    ADAMW_8BIT = "adamw_8bit"
    MUON = "muon"


class TrainingSettings(Frozen, allow_inf_nan=False):
    """Settings that decide the resulting weights; part of a job's identity."""

    updates: int = Field(gt=0, description="parameter updates")
    batch_size: int = Field(gt=0, le=1_000_000, description="images per update, of all ranks together")
    learning_rate: float = Field(gt=0, description="of the optimizer, after warm-up")
    learning_rate_schedule: LearningRateSchedule = Field(
        LearningRateSchedule.CONSTANT, description="of the learning rate after warm-up"
    )
    warmup_updates: int = Field(0, ge=0, description="in which the learning rate rises from 0, in a line")
    optimizer: OptimizerName = Field(
        OptimizerName.ADAMW,
        description="adamw, adamw_8bit (moments of large tensors in 8 bits, by bitsandbytes) or muon (better students"
        " from as many updates)",
    )
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="decay of the mean of gradients")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="decay of the mean of squared gradients")
    weight_decay: float = Field(0.0, ge=0, description="decoupled (AdamW)")
    gradient_clip_norm: float = Field(1.0, gt=0, description="largest norm of a gradient; longer ones are scaled down")
    ema_decay: float | None = Field(
        None, ge=0, lt=1, description="of the moving average of parameters, per update; None: no moving average"
    )
    loss_weight: LossWeight = Field(description="of the reconstruction error, as a function of t")
    horizontal_flip: bool = Field(False, description="mirror half of the images, chosen at random")


class BaseTrainingSettings(TrainingSettings):
    """Settings of the base model's training."""

    label_dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of labels replaced by 'no class', or of prompts by the empty one, which makes guidance"
        " possible; None: decided by whether the run is guided",
    )

    def loop_settings(self) -> TrainingSettings:
        """The settings that every training has."""
        return TrainingSettings(**self.model_dump(exclude={"label_dropout"}))


class LoraSettings(Frozen, allow_inf_nan=False):
    """Students that are adapters of low rank on their first teacher's weights (Hu et al. 2021)."""

    rank: int | None = Field(None, gt=0, description="None: students have all weights of their own")
    alpha: float | None = Field(None, gt=0, description="the adapter counts alpha / rank; None: as the rank")
    targets: tuple[str, ...] = Field(
        (), description="names of layers, or their last parts; none: all linear layers and convolutions of the blocks"
    )


class StatesFrom(StrEnum):
    """Where the noisy states come from that students learn at."""

    DATA = "data"
    """Noise is added to the dataset's images or latents (Algorithm 2)."""
    TEACHER = "teacher"
    """The teacher's own trajectory from noise: no images are needed, only what the model is conditioned on."""
    STUDENT = "student"
    """The student's own trajectory: it learns at the states that its sampling meets."""


class StageObjective(Frozen, allow_inf_nan=False):
    """What a stage learns from its teacher, and with which loss; part of a job's identity.

    What an objective has no use for is as in a default one, so that it makes no other job.
    """

    name: ObjectiveName = ObjectiveName.PROGRESSIVE
    loss: LossName = LossName.SQUARED
    solver: TeacherSolver = TeacherSolver.DDIM
    addim_eta: float | None = Field(None, gt=0, le=1)
    self_teacher_decay: float | None = Field(None, ge=0, lt=1)
    lowest_factor: int | None = Field(None, gt=1, description="where the number of the teacher's steps starts to grow")


class DistillationSettings(TrainingSettings):
    """Settings of every distillation stage; the paper gives the last stages more updates."""

    prediction: PredictionType | None = Field(None, description="of students; None: that of their first teacher")
    updates_at_steps: dict[int, PositiveInt] = Field(
        default_factory=dict, description="updates of the stages whose student has that many sampling steps"
    )
    grid: str = Field(
        "auto",
        description="times of sampling steps: angle, trailing, flow, flow:SHIFT or karras; auto: the first teacher's",
    )
    teacher_steps: int = Field(2, ge=2, description="steps of the teacher that a student learns to do in one")
    objective: ObjectiveName = Field(
        ObjectiveName.PROGRESSIVE, description="what students learn: progressive, tract or consistency"
    )
    objective_at_steps: dict[int, ObjectiveName] = Field(
        default_factory=dict,
        description="objective of the stages whose student has that many sampling steps, as of --ladder 64,8:tract",
    )
    loss: LossName = Field(LossName.SQUARED, description="of the weighted error: squared, pseudo_huber or l1")
    teacher_solver: TeacherSolver | None = Field(
        None,
        description="of the steps of an undistilled teacher: ddim, heun or addim (adjusted DDIM); None: addim for the"
        " objective consistency where nothing forbids it, otherwise ddim",
    )
    addim_eta: float = Field(0.75, gt=0, le=1, description="share of the lost variance that addim gives back")
    self_teacher_decay: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="per update, of the average of the student that teaches it with the objective tract",
    )
    lowest_factor: int = Field(
        2, ge=2, description="of the objective consistency: steps of the teacher in one of the student, at first"
    )
    guidance_updates: int | None = Field(
        None, gt=0, description="updates of the stage that distills guidance; None: as many as others"
    )

    states_from: StatesFrom = Field(
        StatesFrom.DATA,
        description="where noisy states come from: data, or without images the teacher's or student's own trajectory",
    )
    trajectory_steps: int = Field(16, gt=0, description="upper limit of the steps from noise to such a state")
    lora: LoraSettings = LoraSettings()
    frozen_precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of weights that are not trained: the teacher's, and the base of a LoRA"
    )

    def for_stage(self, student_steps: int) -> TrainingSettings:
        """The settings of the stage whose student takes `student_steps` sampling steps."""
        return self._with_updates(self.updates_at_steps.get(student_steps, self.updates))

    def objective_of(self, student_steps: int, *, first_stage: bool, guided: bool) -> StageObjective:
        """The objective of the stage whose student takes `student_steps` sampling steps.

        Args:
            student_steps: Of the student.
            first_stage: Whether its teacher is the first, which alone may do other steps than DDIM's.
            guided: Whether the teacher is guided.
        """
        name = self.objective_at_steps.get(student_steps, self.objective)
        annealed = name is ObjectiveName.CONSISTENCY
        adjusts = annealed and not guided and self.states_from is StatesFrom.DATA
        usual = TeacherSolver.ADDIM if adjusts else TeacherSolver.DDIM
        solver = (self.teacher_solver or usual) if first_stage else TeacherSolver.DDIM
        return StageObjective(
            name=name,
            loss=self.loss,
            solver=solver,
            addim_eta=self.addim_eta if solver is TeacherSolver.ADDIM else None,
            self_teacher_decay=self.self_teacher_decay if name is ObjectiveName.TRACT else None,
            lowest_factor=self.lowest_factor if annealed else None,
        )

    def guidance_settings(self) -> TrainingSettings:
        """The settings of the stage that makes guidance an input."""
        return self._with_updates(self.guidance_updates or self.updates)

    def _with_updates(self, updates: int) -> TrainingSettings:
        others = type(self).model_fields.keys() - TrainingSettings.model_fields.keys()
        return TrainingSettings(updates=updates, **self.model_dump(exclude={"updates", *others}))


class SnapshotSettings(Frozen, allow_inf_nan=False):
    """How often training saves its state; not part of a job's identity."""

    interval_updates: int = Field(1000, gt=0, description="between two; at most a quarter of a training, or 25")
    keep: int = Field(2, gt=0, description="newest complete snapshots that are kept")

    def interval_in(self, updates: int) -> int:
        """Updates between two snapshots of a training of `updates`: at most a quarter of them, or 25."""
        return min(self.interval_updates, max(updates // 4, 25))


class Precision(StrEnum):
    """The arithmetic of networks. Parameters, targets, losses, optimizer and average are always float32."""

    FLOAT32 = "float32"
    TF32 = "tf32"
    """float32 with products in TensorFloat-32 (10 bits of mantissa); CUDA GPUs only."""
    BFLOAT16 = "bfloat16"


class TrackerName(StrEnum):
    """Programs that show the trainings of many runs."""

    TENSORBOARD = "tensorboard"
    WANDB = "wandb"
    MLFLOW = "mlflow"


class LiveSettings(Frozen, allow_inf_nan=False):
    """What training reports while it runs; not part of a job's identity."""

    interval_seconds: float = Field(10.0, ge=0, description="between two reports of loss, rate and ETA")
    samples_interval_seconds: float = Field(
        30.0, ge=0, description="between two sets of samples, which take at most 5 % of the time"
    )
    samples: int = Field(10, ge=0, description="images per set, of the classes in turn; 0: none")
    most_sampling_steps: int = Field(
        16, gt=0, description="upper limit of their sampling steps, otherwise those of the student"
    )
    profile: str | None = Field(
        None,
        description="folder, on the machine that trains, for a profiler's trace of a few updates of each training and"
        " a page that adds it up",
    )
    trackers: tuple[TrackerName, ...] = Field((), description="where the driver logs trainings and distances, too")


class ComputeSettings(Frozen, allow_inf_nan=False):
    """Where and how to compute. Only world_size and precision are part of a job's identity."""

    device: str = Field("auto", pattern="^(auto|cpu|cuda|tpu)$", description="cuda includes AMD GPUs")
    world_size: int | None = Field(None, gt=0, description="processes of a job; None: one per accelerator, or one")
    threads_per_rank: int | None = Field(None, gt=0, description="CPU threads; None: all cores, shared evenly")
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = Field(
        "auto", description="of networks; auto: bfloat16 on accelerators that have it, float32 on CPUs"
    )
    micro_batch_size: int | None = Field(
        None,
        gt=0,
        description="images of a rank at a time; None: on a GPU as many as fit by an estimate, a power of two;"
        " elsewhere, and with fsdp, its whole share of the batch",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="torch.compile networks; auto: in training on accelerators; on: there, on CPUs and in evaluations",
    )
    channels_last: Literal["auto", "on", "off"] = Field(
        "auto",
        description="keep the channels of a pixel together in memory, which convolutions prefer; auto: except on TPUs"
        " and where weights are sharded",
    )
    activation_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, more time"
    )
    parallelism: Literal["auto", "ddp", "fsdp"] = Field(
        "auto", description="parameters replicated or sharded; auto: ddp if they fit"
    )
