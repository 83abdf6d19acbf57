"""What a run refuses before it starts: settings that fit neither one another, nor the dataset, nor the teacher."""

import logging
from collections.abc import Sequence
from itertools import pairwise

from progdistill.config.settings import Settings
from progdistill.data.columns import LABEL
from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.names import ObjectiveName, PredictionType, TeacherSolver
from progdistill.diffusion.noise_schedules import EDMSchedule, FlowSchedule
from progdistill.errors import UsageError
from progdistill.registry.checkpoint import CheckpointKind, CheckpointManifest
from progdistill.registry.pipeline import PipelineManifest, load_pipeline
from progdistill.run.ranks import world_size_of
from progdistill.store.base import Store
from progdistill.training.config import LoraSettings, StageObjective, StatesFrom, TrainingSettings

logger = logging.getLogger(__name__)


def check_grid(settings: Settings, teacher: CheckpointManifest | None) -> None:
    """Refuse what students cannot predict, and a grid or a number of the teacher's steps that does not fit."""
    schedule, prediction = settings.model.foreign_schedule, settings.student_prediction
    if isinstance(schedule, FlowSchedule | EDMSchedule) and prediction is not PredictionType.V:
        raise UsageError(
            f"distill.prediction = {prediction}, but students of a network of flow matching or EDM answer as it does,"
            " which counts as v: leave it out"
        )
    grid, taken = settings.grid, settings.distill.teacher_steps
    if teacher is not None and teacher.identity.kind is CheckpointKind.STUDENT and grid != settings.model.grid:
        raise UsageError(
            f"distill.grid = {settings.distill.grid}, but {teacher.id[:12]} is a student that knows its own times alone"
            f" ({settings.model.grid}): leave it out, or start from an undistilled model"
        )
    for steps in settings.ladder:
        grid.times(steps)
    for higher, lower in pairwise(settings.ladder):
        if taken > higher // lower:
            raise UsageError(
                f"distill.teacher_steps = {taken}, but from {higher} to {lower} sampling steps a step of the student"
                f" takes the place of {higher // lower}: choose 2, or another --ladder"
            )
        grid.times(lower * taken)


def check_objectives(settings: Settings, teacher: CheckpointManifest | None) -> None:
    """Refuse an objective that its stage's factor, its teacher, or the noisy states do not allow."""
    distill = settings.distill
    is_student = teacher is not None and teacher.identity.kind is CheckpointKind.STUDENT
    if is_student and distill.teacher_solver not in (None, TeacherSolver.DDIM):
        raise UsageError(
            f"distill.teacher_solver = {distill.teacher_solver} is for an undistilled teacher, and --from is a student,"
            " which has learned its own steps alone: leave it out"
        )
    for stage_index, (higher, lower) in enumerate(pairwise(settings.ladder), 1):
        objective = settings.objective_of(stage_index)
        where = f"the stage from {higher} to {lower} steps has the objective {objective.name}"
        if objective.solver is TeacherSolver.ADDIM:
            _check_addim(settings, objective, where)
        if objective.name is ObjectiveName.PROGRESSIVE:
            continue
        if distill.states_from is StatesFrom.STUDENT:
            raise UsageError(
                f"{where}, which learns at all of the teacher's times, and a student's trajectory passes its own alone:"
                " set distill.states_from=data or teacher"
            )
        if objective.name is ObjectiveName.CONSISTENCY:
            _check_annealing(stage_index, is_student, objective, higher // lower, where)


def _check_addim(settings: Settings, objective: StageObjective, where: str) -> None:
    if objective.name is ObjectiveName.PROGRESSIVE:
        raise UsageError(
            f"{where}, in which teachers do several steps, and addim corrects single ones: choose the objective tract"
            " or consistency, or leave distill.teacher_solver out"
        )
    if settings.guidance_scale is not None or settings.distill.states_from is not StatesFrom.DATA:
        raise UsageError(
            f"{where} with distill.teacher_solver = addim, which needs the error of the teacher's x̂: a guided x̂ is"
            " meant to err, and without data it is unknown: set distill.teacher_solver=ddim"
        )
    if settings.model.prediction is PredictionType.EPS and settings.grid.times(1)[0] == 1:
        raise UsageError(
            f"{where} with a teacher that predicts eps, whose x̂ at t = 1 is unknown and cannot be corrected by addim:"
            " set distill.teacher_solver=ddim"
        )


def _check_annealing(stage_index: int, is_student: bool, objective: StageObjective, factor: int, where: str) -> None:
    if stage_index > 1 or is_student:
        raise UsageError(
            f"{where}, whose teacher's steps grow shorter, and its teacher is a student that has learned steps of one"
            " length: choose tract there"
        )
    lowest = objective.lowest_factor or factor
    if lowest > factor or lowest & (lowest - 1):
        raise UsageError(
            f"distill.lowest_factor = {lowest}, but {where} and {factor} steps of the teacher in one of the student:"
            f" choose a power of two up to {factor}"
        )


def check_fit(settings: Settings, dataset: DatasetInfo) -> None:
    """Refuse a network for samples of another shape, of other classes, or conditioned on what the dataset lacks."""
    network, needs_samples = settings.model.network, _needs_samples(settings)
    shape, classes = network.sample_shape, network.num_classes
    found, found_classes = dataset.sample_shape, dataset.num_classes
    stored = {column.name: column.shape for column in dataset.columns}
    lacking = [c.name for c in network.columns if c.name != LABEL and stored.get(c.name) != c.shape]
    if (found == shape or not needs_samples) and classes in (0, found_classes) and not lacking:
        return
    owner, cure = f"preset {settings.preset}", "choose another --preset, or --set model.network.… to fit"
    if settings.first_teacher is not None:
        owner, cure = f"teacher {settings.first_teacher[:12]}", "choose another --dataset or another --from"
        if lacking or (settings.model.pipeline is not None and dataset.image_size):
            cure = f"encode it with `progdistill data encode {dataset.name} --pipeline {settings.first_teacher[:12]}`"
        elif found is None:
            cure = "without images, set distill.states_from=teacher"
        elif classes == found_classes + 1:
            cure += '; if its last class stands for "none", import it again with --label-dropout'
    if lacking:
        raise UsageError(
            f"the network of {owner} is conditioned on {', '.join(lacking)}, which dataset {dataset.name} does not have"
            f" in that shape: {cure}"
        )
    raise UsageError(
        f"the network of {owner} is for {_shape(shape)} images of {classes} classes, but dataset"
        f" {dataset.name} has {_shape(found)} of {found_classes}: {cure}"
    )


def _needs_samples(settings: Settings) -> bool:
    """Whether something is trained on the dataset's images or latents."""
    return settings.first_teacher is None or settings.distill.states_from is StatesFrom.DATA


def check_encoder(store: Store, settings: Settings, dataset: DatasetInfo) -> None:
    """Refuse columns of other encoders than the teacher's."""
    own, others = settings.model.pipeline, dataset.encoded_by
    if own is None or others is None or own == others:
        return
    parts = ["text_encoder", "tokenizer", *(["vae"] if _needs_samples(settings) else [])]
    try:
        found, wanted = (_digests(load_pipeline(store, pipeline), parts) for pipeline in (others, own))
    except UsageError:  # encoded with the pipeline of another store
        found, wanted = {"the pipeline": others}, {"the pipeline": own}
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise UsageError(
                f"dataset {dataset.name} was encoded by another pipeline than the teacher's: {name} has SHA-256"
                f" {found.get(name)}, the teacher's {wanted.get(name)}: encode it again with"
                f" `progdistill data encode … --pipeline {(settings.first_teacher or '')[:12]}`"
            )


def _digests(pipeline: PipelineManifest, parts: Sequence[str]) -> dict[str, str]:
    """The files of some components."""
    return {name: file.sha256 for name, file in pipeline.files.items() if name.startswith(tuple(parts))}


def check_guidance(settings: Settings, dataset: DatasetInfo) -> None:
    """Refuse a range of scales where one is folded in, and a scale to measure with where that has no effect."""
    scales, measured = settings.guidance_scale, settings.evaluation.guidance_scale
    if measured is not None and (scales is None or settings.folds_guidance):
        raise UsageError(
            f"evaluation.guidance_scale = {measured:g}, but students of this run are not guided by it: leave it out,"
            " or distill with --guidance-scale LOWEST:HIGHEST"
        )
    prompts = any(column.name != LABEL for column in settings.model.network.columns)
    drops = settings.first_teacher is None and settings.label_dropout > 0
    if (settings.has_guided_stage or drops) and prompts and not dataset.has_unconditional:
        what = "base.label_dropout" if scales is None else f"--guidance-scale {scales}"
        raise UsageError(
            f"{what} needs the empty prompt as the model's text encoder gives it, and dataset"
            f" {dataset.name} does not have it: encode the dataset again with `progdistill data encode`"
        )
    if scales is None or not settings.folds_guidance or scales.lowest == scales.highest:
        return
    if settings.model.network.can_take_guidance:
        raise UsageError(
            f"--guidance-scale {scales}: LoRA students have one scale folded in, because their base has no such input:"
            f" give one, such as --guidance-scale {scales.highest:g}, or leave distill.lora out"
        )
    raise UsageError(
        f"--guidance-scale {scales}: this network has no place for the scale as an input, so that students have one"
        f" folded in: give one, such as --guidance-scale {scales.highest:g}"
    )


def check_lora(settings: Settings) -> None:
    """Refuse adapters that their base cannot have."""
    lora, model = settings.lora, settings.model
    if lora is None:
        return
    if model.lora is not None and _asked(lora) != (model.lora.rank, model.lora.alpha, model.lora.targets):
        raise UsageError(
            f"distill.lora has rank {lora.rank}, alpha {lora.alpha or lora.rank:g} and targets"
            f" {', '.join(lora.targets) or 'of its own choice'}, but the teacher is a LoRA of rank {model.lora.rank},"
            f" alpha {model.lora.alpha:g} and targets {', '.join(model.lora.targets) or 'of its own choice'}, which its"
            " students keep: set the same, or leave distill.lora out for students with all weights"
            " (docs/how_to/lora.md)"
        )
    if settings.student_prediction.output_multiplier != model.prediction.output_multiplier:
        raise UsageError(
            f"distill.prediction={settings.student_prediction} needs other output channels than its teacher's"
            f" {model.prediction}, and a LoRA cannot change them: choose another, or leave distill.lora out"
        )
    if settings.compute.parallelism == "fsdp":
        raise UsageError(
            "compute.parallelism=fsdp is not for LoRA students, whose frozen base is on every rank: leave it out;"
            " distill.frozen_precision=bfloat16 halves the base"
        )


def _asked(lora: LoraSettings) -> tuple[int | None, float | None, tuple[str, ...]]:
    return lora.rank, lora.alpha or lora.rank, lora.targets


def check_values(settings: Settings, dataset: DatasetInfo) -> None:
    """Refuse flips that change an image's meaning, and batches that do not divide."""
    trained: dict[str, TrainingSettings] = {} if settings.first_teacher else {"base": settings.base}
    trained["distill"] = settings.distill
    mirrored = [name for name, training in trained.items() if training.horizontal_flip]
    if mirrored and not dataset.horizontal_flip_safe:
        options = " ".join(f"--set {name}.horizontal_flip=false" for name in mirrored)
        raise UsageError(
            f"{mirrored[0]}.horizontal_flip is true, but images of {dataset.name} change meaning when mirrored:"
            f" {options}"
        )
    for name, training in trained.items():
        world_size = world_size_of(settings, "train_base" if name == "base" else "distill")
        if training.batch_size % world_size:
            raise UsageError(
                f"{name}.batch_size = {training.batch_size} cannot be shared evenly by {world_size} ranks: choose a"
                f" multiple of {world_size}, or another world size"
            )


def warn_of_short_trainings(settings: Settings) -> None:
    """Say where the learning rate would not reach its value, as with a preset of the paper and few updates."""
    updates = {} if settings.first_teacher else {"base": settings.base.updates}
    updates["distill"] = min(settings.distill.for_stage(steps).updates for steps in settings.ladder[1:])
    for name, count in updates.items():
        warmup = (settings.base if name == "base" else settings.distill).warmup_updates
        if warmup > count:
            logger.warning(
                "the learning rate of %s rises for %s updates, but a training has %s: for its whole rate say"
                " --set %s.warmup_updates=%s",
                *(name, warmup, count, name, count // 10),
            )


def _shape(shape: tuple[int, int, int] | None) -> str:
    return "none" if shape is None else "×".join(map(str, shape))
