"""Everything that is checked before a run starts: settings against store, dataset, machine and disk."""

import os
from collections.abc import Iterator
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

from progdistill.config.ladder import format_ladder, ladder_text
from progdistill.config.options import DEFAULT_STORE, RunOptions
from progdistill.config.overrides import set_field
from progdistill.config.presets import DEFAULT_DATASET
from progdistill.config.settings import LauncherName, Settings, settings_from
from progdistill.data.catalog import UNKNOWN_DATASET
from progdistill.data.columns import LABEL
from progdistill.data.dataset import DatasetInfo, default_data_root, find_dataset, is_data_of, require_data_of
from progdistill.diffusion.grid import AngleGrid
from progdistill.diffusion.names import LossName, ObjectiveName, TeacherSolver, check_combination
from progdistill.errors import UsageError
from progdistill.evaluation.plan import as_sampled, checked_clip, needs_features
from progdistill.evaluation.published_statistics import pinned_statistics
from progdistill.features.weights import check_evaluator, pinned
from progdistill.models.config import DenoiserConfig
from progdistill.models.size import parameter_count
from progdistill.models.stock_steps import check_stock_steps
from progdistill.models_base import Frozen
from progdistill.progress import readable_bytes
from progdistill.registry.checkpoint import CheckpointKind, CheckpointManifest
from progdistill.registry.resolve import resolve_reference
from progdistill.run.checks import (
    check_encoder,
    check_fit,
    check_grid,
    check_guidance,
    check_lora,
    check_objectives,
    check_values,
    warn_of_short_trainings,
)
from progdistill.run.reproduce import reproduce
from progdistill.run.trackers import check_trackers
from progdistill.store.base import Store
from progdistill.store.open import open_store
from progdistill.training.accelerators import accelerators_here
from progdistill.training.config import StageObjective, TrainingSettings
from progdistill.training.guidance import LABEL_DROPOUT, GuidanceRange, can_be_guided, range_of

SNAPSHOT_COPIES = 4
"""Copies of the parameters in one snapshot: weights, moving average, and the optimizer's two moments."""

LONG_TRAINING = 1e11
"""Images seen times parameters above which training takes minutes; the digits preset has an eighth of it."""


def runs_folder() -> Path:
    """Where runs write their reports and logs."""
    return Path("runs")


class PreparedRun(Frozen):
    """A run whose every input has been found and fits."""

    settings: Settings
    dataset: DatasetInfo
    parameters: int
    adapter_parameters: int | None = None
    """Of a student that is a LoRA."""
    reproduces: tuple[str, str] | None = None
    """The reference given to `--reproduce`, and the id of its checkpoint."""
    other_data: bool = False
    """Whether students train on a dataset, named by `--dataset`, that their teacher was not trained on."""
    ignored_overrides: tuple[str, ...] = ()
    """Paths of `--set` about the model, which is the one of `--from`."""

    @property
    def trainings(self) -> list[TrainingSettings]:
        """What the run trains unless the store has it: base model, guided student, and each stage."""
        settings = self.settings
        base = [] if settings.first_teacher else [settings.base]
        guided = [settings.distill.guidance_settings()] if settings.has_guided_stage else []
        return [*base, *guided, *(settings.distill.for_stage(steps) for steps in settings.ladder[1:])]

    @property
    def trains_long(self) -> bool:
        """Whether some training takes minutes, so that people want to watch it."""
        images = max(training.updates * training.batch_size for training in self.trainings)
        return images * self.parameters >= LONG_TRAINING

    @property
    def tags(self) -> list[str]:
        """Metaflow tags by which a team finds the run."""
        teacher = self.settings.first_teacher
        branch = [] if teacher is None else [f"from:{teacher[:12]}"]
        return [f"dataset:{self.dataset.name}", f"ladder:{ladder_text(self.settings.ladder)}", *branch]

    @property
    def objectives(self) -> list[ObjectiveName]:
        """What each stage learns, from the top of the ladder down."""
        return [self.settings.objective_of(stage).name for stage in range(1, len(self.settings.ladder))]

    @property
    def disk_bytes(self) -> int:
        """Most bytes of checkpoints and snapshots in the store."""
        students = len(self.settings.ladder) - 1 + self.settings.has_guided_stage
        copies = SNAPSHOT_COPIES + (ObjectiveName.TRACT in self.objectives)  # the student's average that teaches it
        snapshots = copies * (self.settings.snapshots.keep + 1)
        if self.adapter_parameters is None:
            return 4 * self.parameters * (1 + students + snapshots)
        base = 0 if self.settings.first_teacher else 1 + snapshots
        return 4 * (self.parameters * base + self.adapter_parameters * (students + snapshots))

    def facts(self) -> dict[str, object]:
        """The plan as JSON values: stages, updates and images, before anything runs."""
        settings = self.settings
        base_updates = 0 if settings.first_teacher else settings.base.updates
        return {
            "dataset": self.dataset.name,
            "ladder": list(settings.ladder),
            "stages": len(settings.ladder) - 1 + settings.has_guided_stage,
            "parameters": self.parameters,
            "adapter_parameters": self.adapter_parameters,
            "base_updates": base_updates,
            "distillation_updates": sum(training.updates for training in self.trainings) - base_updates,
            "training_images": sum(training.updates * training.batch_size for training in self.trainings),
            "disk_bytes": self.disk_bytes,
            "store": settings.store,
            "first_teacher": settings.first_teacher,
            "reproduces": None if self.reproduces is None else self.reproduces[1],
            "guidance_scale": settings.guidance_scale and settings.guidance_scale.model_dump(),
            "grid": settings.grid.model_dump(mode="json"),
            "objectives": [str(objective) for objective in self.objectives],
            "configuration": settings.model_dump(mode="json"),
        }

    def describe(self) -> str:
        """The plan in a few lines for people."""
        facts, settings = self.facts(), self.settings
        start = f"train a base model, {facts['base_updates']:,} updates"
        if settings.first_teacher:
            other = ", which was trained on other data" if self.other_data else ""
            start = f"start from {settings.first_teacher[:12]}{other}"
        scales = settings.guidance_scale
        guided = "" if scales is None else f", with guidance scales {scales}, as an input"
        if scales is not None and settings.folds_guidance:
            guided = f", with guidance scale {scales.lowest:g} folded in"
        origin = "" if self.reproduces is None else ", reproduces {} ({:.12})".format(*self.reproduces)
        stages = f"{facts['stages']} stage{'s' * (facts['stages'] != 1)}"
        updates, images, megabytes = facts["distillation_updates"], facts["training_images"], self.disk_bytes / 1e6
        lines = [
            f"Plan: {self.dataset.name} ({self.parameters:,} parameters), store {settings.store}{origin}",
            f"  {start}",
            f"  distill {format_ladder(settings.ladder)} in {stages}{guided}, {updates:,} updates",
            f"  {images:,} images in all batches, at most {megabytes:,.1f} MB in the store",
        ]
        if not isinstance(settings.grid, AngleGrid):
            lines.append(f"  grid of times: {settings.grid}")
        lines += _objectives(settings)
        lines += _without_stock_pipeline(settings)
        if settings.lora is not None:
            parameters = f"{self.adapter_parameters:,} parameters each"
            lines.append(f"  students are LoRAs of rank {settings.lora.rank}, {parameters}")
        if scales is not None and any(column.name != LABEL for column in settings.model.network.columns):
            lines.append("  negative prompts have no effect on students, which are guided in one evaluation")
        if self.ignored_overrides:
            lines.append(f"  ignored, since the model is the teacher's: {', '.join(self.ignored_overrides)}")
        return "\n".join(lines)


def _objectives(settings: Settings) -> Iterator[str]:
    """A line for each stage that learns otherwise than in the paper."""
    for stage_index, (higher, lower) in enumerate(pairwise(settings.ladder), 1):
        objective = settings.objective_of(stage_index)
        if objective != StageObjective():
            solver = "" if objective.solver is TeacherSolver.DDIM else f", teacher's steps by {objective.solver}"
            loss = "" if objective.loss is LossName.SQUARED else f", loss {objective.loss}"
            yield f"  {higher} → {lower}: objective {objective.name}{solver}{loss}"


def prepare_run(options: RunOptions) -> PreparedRun:
    """Resolve and check everything a run needs; UsageError names the first thing that is wrong."""
    reproduced = reproduce(options)
    if reproduced is not None:
        options = reproduced.options
    store = open_store(options.store or DEFAULT_STORE)
    store.check_writable()
    teacher = None if options.start_from is None else resolve_reference(store, options.start_from)
    name = options.dataset or (DEFAULT_DATASET if teacher is None else _dataset_of(teacher, options))
    dataset = find_dataset(name, default_data_root())
    resolved = options.model_copy(update={"store": store.uri, "dataset": name})
    model = None if teacher is None else DenoiserConfig.of(teacher.identity)
    settings = settings_from(resolved, dataset, None if reproduced is None else reproduced.settings, model)
    if teacher is not None:
        settings = _branched(settings, options, teacher)
    check_grid(settings, teacher)
    check_objectives(settings, teacher)
    first_time = settings.grid.times(1)[0]
    check_combination(settings.student_prediction, settings.distill.loss_weight, distilling=True, first_time=first_time)
    check_trackers(settings.live.trackers)
    if settings.launcher is LauncherName.KUBERNETES:
        from progdistill.jobs.kubernetes.preflight import dataset_for_pods, require_reachable

        require_reachable(settings.cluster, settings.store, settings.compute.world_size)
        dataset = dataset_for_pods(settings.cluster, name, settings.store, default_data_root())
    elif "ARGO_WORKFLOW_TEMPLATE" not in os.environ:  # the pods of later steps have other devices
        _check_device(settings)
    if teacher is not None and options.dataset is None:
        require_data_of(dataset, teacher.identity.dataset_fingerprint, f"--from {options.start_from}")
    check_fit(settings, dataset)
    check_encoder(store, settings, dataset)
    check_guidance(settings, dataset)
    check_lora(settings)
    check_values(settings, dataset)
    warn_of_short_trainings(settings)
    if needs_features(settings.evaluation, settings.model, dataset):
        evaluation = checked_clip(pinned(settings.evaluation), settings.model, dataset)
        features = check_evaluator(store, evaluation, as_sampled(store, settings.model, dataset))
        settings = settings.model_copy(update={"evaluation": pinned_statistics(store, evaluation, features)})
    run = PreparedRun(
        settings=settings,
        dataset=dataset,
        parameters=parameter_count(settings.model.network, settings.model.out_channels),
        adapter_parameters=_adapter_parameters(settings),
        reproduces=None if reproduced is None else (str(options.reproduce), reproduced.checkpoint_id),
        other_data=teacher is not None and not is_data_of(dataset, teacher.identity.dataset_fingerprint),
        ignored_overrides=() if teacher is None else _ignored(options, settings),
    )
    _check_disk(run, store)
    return run


def _check_disk(run: PreparedRun, store: Store) -> None:
    """Refuse a run that the store has no room for."""
    free = store.free_bytes()
    if free is not None and run.disk_bytes > free:
        raise UsageError(
            f"the plan needs up to {readable_bytes(run.disk_bytes)} in {store.uri}, where {readable_bytes(free)} are"
            " free: choose another --store, a shorter --ladder or a smaller model"
        )


def _dataset_of(teacher: CheckpointManifest, options: RunOptions) -> str:
    name = teacher.provenance.dataset_name
    if name == UNKNOWN_DATASET:
        raise UsageError(
            f"--from {options.start_from}: the dataset of this imported model is unknown: choose with --dataset which"
            " dataset to train the students on"
        )
    return name


def _branched(settings: Settings, options: RunOptions, teacher: CheckpointManifest) -> Settings:
    """Start from `teacher`, whose model `settings` has: the ladder below its number of steps."""
    ladder, steps = settings.ladder, teacher.identity.sampling_steps
    if teacher.identity.kind is CheckpointKind.STUDENT and steps is not None:
        typed = options.ladder is not None and "ladder" not in options.defaults
        if typed and ladder[0] != steps:
            raise UsageError(
                f"--from {options.start_from} is a student of {steps} sampling steps, but --ladder {options.ladder}"
                f" starts at {ladder[0]}: write --ladder {steps}:{ladder[-1]}, or leave it out"
            )
        if steps <= ladder[-1]:
            raise UsageError(
                f"--from {options.start_from} already has {steps} sampling steps; there is nothing to distill down to"
                f" {ladder[-1]}: choose a checkpoint of more steps"
            )
        ladder = (steps, *(rung for rung in ladder if rung < steps))
    scales = _guidance_scale(settings, teacher)
    changes = {"ladder": ladder, "first_teacher": teacher.id, "guidance_scale": scales}
    return settings.model_copy(update=changes)


def _guidance_scale(settings: Settings, teacher: CheckpointManifest) -> GuidanceRange | None:
    """The guidance scales that students of `teacher` learn: its own, else what the run sets."""
    wanted, own, name = settings.guidance_scale, range_of(teacher), f"--from {teacher.id[:12]}"
    network, folded = settings.model.network, settings.model.folded_guidance_scale
    if folded is not None:
        if wanted in (None, GuidanceRange(lowest=folded, highest=folded)):
            return None
        raise UsageError(
            f"{name} has guidance scale {folded:g} folded in, which its students keep: leave --guidance-scale"
            f" {wanted} out, or start from an undistilled model"
        )
    if network.guidance_input and own is None:
        if wanted is None:
            raise UsageError(
                f"{name} takes a guidance scale as an input: say which ones its students learn, such as"
                " --guidance-scale 1:5"
            )
        return wanted
    if wanted is None or wanted == own:
        return own
    if own is not None:
        raise UsageError(
            f"{name} was distilled with guidance scales {own}, which its students keep: leave --guidance-scale"
            f" {wanted} out, or start from an undistilled model"
        )
    if not network.columns:
        raise UsageError(f"--guidance-scale {wanted} needs classes or prompts, and {name} has none: leave it out")
    if not can_be_guided(teacher):
        raise UsageError(
            f"--guidance-scale {wanted} needs an undistilled teacher trained with label dropout, which {name} is not:"
            f" train one, --set base.label_dropout={LABEL_DROPOUT}"
        )
    return wanted


def _adapter_parameters(settings: Settings) -> int | None:
    """None where students have weights of their own; otherwise torch decides, whose import takes 2 s."""
    if settings.lora is None or settings.lora.rank is None:
        return None
    from progdistill.models.adapters import adapter_parameters

    return adapter_parameters(settings.model, settings.lora.rank, settings.lora.targets)


def _ignored(options: RunOptions, settings: Settings) -> tuple[str, ...]:
    """The overrides of the model that the teacher's model, which `settings` has, does not follow."""
    fields, paths = {"model": settings.model.model_dump(mode="json")}, dict[str, None]()
    for override in options.set:
        if override.section == "model":
            before = deepcopy(fields)
            set_field(fields, override, Settings)
            if fields != before:
                paths[override.path] = None
    return tuple(paths)


def _without_stock_pipeline(settings: Settings) -> Iterator[str]:
    """Students that stock pipelines will not sample, with what can be done."""
    changes = {"prediction": settings.student_prediction, "grid": settings.grid}
    student = settings.model.model_copy(update=changes)
    said = set()
    for steps in settings.ladder[1:]:
        try:
            check_stock_steps(student, steps)
        except UsageError as error:
            if str(error) not in said:
                yield f"  not for stock pipelines: {error}"
            said.add(str(error))


def _check_device(settings: Settings) -> None:
    """Refuse a device that this machine lacks; torch, whose import takes 2 s, decides in doubt."""
    if settings.compute.device in ("cuda", "tpu") and accelerators_here().kind != settings.compute.device:
        from progdistill.training.devices import choose_device

        choose_device(settings.compute.device, 0)
