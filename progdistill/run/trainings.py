"""The trainings of a run as jobs, from the base model down the ladder."""

from typing import Literal, TypedDict

from progdistill.diffusion.names import ObjectiveName
from progdistill.errors import LostInvariantError
from progdistill.jobs.spec import DistillSpec, GuideSpec, TrainBaseSpec
from progdistill.run.prepare import PreparedRun
from progdistill.run.ranks import device_of, world_size_of
from progdistill.training.accelerators import precision_for
from progdistill.training.config import LoraSettings, Precision, StatesFrom


class JobFacts(TypedDict):
    dataset_fingerprint: str
    seed: int


class _Training(JobFacts):
    world_size: int
    precision: Precision


class _Student(TypedDict):
    lora: LoraSettings | None
    frozen_precision: Literal["float32", "bfloat16"]
    states_from: StatesFrom
    trajectory_steps: int | None


def facts_of_job(run: PreparedRun) -> JobFacts:
    """What every job of a run has."""
    return JobFacts(dataset_fingerprint=run.dataset.fingerprint, seed=run.settings.seed)


def base_training(run: PreparedRun) -> TrainBaseSpec:
    """The training of the base model."""
    settings = run.settings
    return TrainBaseSpec(
        **_training(run, "train_base"),
        model=settings.model,
        training=settings.base.loop_settings(),
        label_dropout=settings.label_dropout,
    )


def guided_training(run: PreparedRun, teacher: str) -> GuideSpec:
    """The distillation of guidance, of a run that has that stage."""
    settings = run.settings
    if settings.guidance_scale is None:
        raise LostInvariantError("a run without guidance has no guided stage")
    return GuideSpec(
        **_training(run, "guide"),
        teacher=teacher,
        student_steps=settings.ladder[0],
        prediction=settings.student_prediction,
        grid=settings.grid,
        training=settings.distill.guidance_settings(),
        guidance_scale=settings.guidance_scale,
        **_student(run),
    )


def stage_training(run: PreparedRun, teacher: str, stage_index: int) -> DistillSpec:
    """The training of the student of rung `stage_index`, from 1."""
    settings = run.settings
    objective = settings.objective_of(stage_index)
    higher, steps = settings.ladder[stage_index - 1 : stage_index + 1]
    jumps = objective.name is not ObjectiveName.PROGRESSIVE
    return DistillSpec(
        **_training(run, "distill"),
        teacher=teacher,
        student_steps=steps,
        prediction=settings.student_prediction,
        grid=settings.grid,
        teacher_steps=higher // steps if jumps else settings.distill.teacher_steps,
        objective=objective,
        training=settings.distill.for_stage(steps),
        guidance_scale=None if settings.folds_guidance else settings.guidance_scale,
        **_student(run),
    )


def _training(run: PreparedRun, kind: str) -> _Training:
    """What every training has; the precision depends on the device unless it is set."""
    return _Training(
        **facts_of_job(run),
        world_size=world_size_of(run.settings, kind),
        precision=precision_for(run.settings.compute, device_of(run.settings, kind)),
    )


def _student(run: PreparedRun) -> _Student:
    """What every stage has beyond a training."""
    distill = run.settings.distill
    return _Student(
        lora=run.settings.lora,
        frozen_precision=distill.frozen_precision,
        states_from=distill.states_from,
        trajectory_steps=None if distill.states_from is StatesFrom.DATA else distill.trajectory_steps,
    )


def training_ids(run: PreparedRun) -> tuple[str, ...]:
    """A name for each checkpoint of a run, from the top of the ladder down, before there is any.

    Runs that give a name in common train that checkpoint, and those before it, alike: it is the id of the training
    with the name of its teacher in place of a checkpoint.
    """
    settings = run.settings
    found = settings.first_teacher or base_training(run).id
    if settings.has_guided_stage:
        found = guided_training(run, found).id
    names = [found]
    for index in range(1, len(settings.ladder)):
        names.append(stage_training(run, names[-1], index).id)
    return tuple(names)
