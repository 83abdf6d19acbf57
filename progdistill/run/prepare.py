"""Everything that is checked before a run starts: settings against store, dataset and disk."""

import os
from functools import reduce
from pathlib import Path

from progdistill.config.ladder import format_ladder
from progdistill.config.options import DEFAULT_STORE, RunOptions
from progdistill.config.settings import DEFAULT_DATASET, LauncherName, Settings, settings_from
from progdistill.data.dataset import DatasetInfo, default_data_root, find_dataset, is_data_of, require_data_of
from progdistill.diffusion.names import check_combination
from progdistill.errors import UsageError
from progdistill.evaluation.reference import pinned_statistics
from progdistill.features.weights import check_evaluator, pinned
from progdistill.models.config import DenoiserConfig
from progdistill.models.size import parameter_count
from progdistill.models_base import Frozen
from progdistill.registry.checkpoint import UNKNOWN_DATASET, CheckpointKind, CheckpointManifest
from progdistill.registry.resolve import resolve_reference
from progdistill.run.reproduce import reproduce
from progdistill.store.base import Store
from progdistill.store.open import open_store
from progdistill.training.accelerators import DeviceKind, accelerators_here, kind_for
from progdistill.training.config import ComputeSettings, TrainingSettings
from progdistill.training.guidance import LABEL_DROPOUT, GuidanceRange, can_be_guided, range_of


def world_size_of(settings: Settings, kind: str) -> int:
    """The number of ranks of a job of that kind."""
    if settings.launcher is LauncherName.LOCAL:
        return world_size_here(settings.compute)
    return settings.cluster.for_kind(kind)[1].world_size


def device_of(settings: Settings, kind: str) -> DeviceKind:
    """What the networks of a job of that kind run on."""
    if settings.launcher is LauncherName.LOCAL:
        return kind_for(settings.compute)
    return settings.cluster.for_kind(kind)[1].device_kind


def world_size_here(compute: ComputeSettings) -> int:
    """The number of ranks of a job here: as asked for, else one per accelerator that it uses, else one."""
    if compute.world_size is not None:
        return compute.world_size
    found = accelerators_here()
    return max(1, found.number) if compute.device in ("auto", found.kind) else 1


SNAPSHOT_COPIES = 4
"""Copies of the parameters in one snapshot: weights, moving average, and the optimizer's two moments."""


LONG_TRAINING = 1e11
"""Images seen times parameters above which training takes minutes; the digits preset's is an eighth of it."""


class PreparedRun(Frozen):
    """A run whose every input has been found and fits."""

    settings: Settings
    dataset: DatasetInfo
    parameters: int
    like: tuple[str, str] | None = None
    """What `--like` said, and the id of the checkpoint that it meant."""
    other_data: bool = False
    """Whether students learn from a dataset, named by `--dataset`, that their teacher was not trained on."""
    ignored_overrides: tuple[str, ...] = ()
    """Paths of `--set` that say of the model what the teacher of `--from` is not."""

    @property
    def disk_bytes(self) -> int:
        """What checkpoints and snapshots will take in the store at most."""
        checkpoints = len(self.settings.ladder) + self.settings.has_guided_stage
        snapshots = SNAPSHOT_COPIES * (self.settings.snapshots.keep + 1)
        return 4 * self.parameters * (checkpoints + snapshots)

    @property
    def trains_long(self) -> bool:
        """Whether some training takes minutes, so that people want to see how it goes."""
        settings = self.settings
        stages = [settings.distill.for_stage(steps) for steps in settings.ladder[1:]]
        trainings = stages if settings.first_teacher else [settings.base, *stages]
        images = max(training.updates * training.batch_size for training in trainings)
        return images * self.parameters >= LONG_TRAINING

    def facts(self) -> dict[str, object]:
        """The plan as numbers: stages, updates and images, before anything runs."""
        settings = self.settings
        stages = [settings.distill.for_stage(steps) for steps in settings.ladder[1:]]
        if settings.has_guided_stage:
            stages.insert(0, settings.distill.guidance_settings())
        base_updates = 0 if settings.first_teacher else settings.base.updates
        distill_images = sum(stage.updates * stage.batch_size for stage in stages)
        return {
            "dataset": self.dataset.name,
            "ladder": list(settings.ladder),
            "stages": len(stages),
            "parameters": self.parameters,
            "base_updates": base_updates,
            "distillation_updates": sum(stage.updates for stage in stages),
            "training_images": base_updates * settings.base.batch_size + distill_images,
            "disk_bytes": self.disk_bytes,
            "store": settings.store,
            "first_teacher": settings.first_teacher,
            "like": None if self.like is None else self.like[1],
            "guidance": None if settings.guidance is None else settings.guidance.model_dump(),
            "configuration": settings.model_dump(mode="json"),
        }

    def describe(self) -> str:
        """The plan in a few lines for people."""
        facts, settings = self.facts(), self.settings
        teacher = settings.first_teacher
        other = ", which was trained on other data" if self.other_data else ""
        start = (
            f"start from {teacher[:12]}{other}"
            if teacher
            else f"train a base model, {facts['base_updates']:,} updates"
        )
        weights = settings.guidance
        guided = "" if weights is None else f", guided with weights {weights}"
        like = "" if self.like is None else f", like {self.like[0]} ({self.like[1][:12]})"
        ignored = ", ".join(self.ignored_overrides)
        return "\n".join(
            [
                f"Plan: {self.dataset.name} ({self.parameters:,} parameters), store {settings.store}{like}",
                f"  {start}",
                f"  distill {format_ladder(settings.ladder)} in {facts['stages']} stages{guided},"
                f" {facts['distillation_updates']:,} updates",
                f"  {facts['training_images']:,} training images,"
                f" at most {self.disk_bytes / 1e6:,.1f} MB in the store",
                *([f"  without effect, as the model is the teacher's: {ignored}"] if ignored else []),
            ]
        )


def prepare_run(options: RunOptions) -> PreparedRun:
    """Resolve and check everything a run needs; UsageError names the first thing that is wrong."""
    like = reproduce(options)
    reference, options = options.like, options if like is None else like.options
    store = open_store(options.store or DEFAULT_STORE)
    store.check_writable()
    teacher = None if options.from_ is None else resolve_reference(store, options.from_)
    named = options.dataset or (DEFAULT_DATASET if teacher is None else _dataset_of(teacher, options))
    data_of_teacher = options.dataset is None
    dataset = find_dataset(named, default_data_root())
    options = options.model_copy(update={"store": store.uri, "dataset": named})
    asked = settings = settings_from(options, dataset, None if like is None else like.settings)
    if teacher is not None:
        settings = _branched(asked, options, teacher)
    check_combination(settings.student_prediction, settings.distill.loss_weight, distilling=True)
    if settings.launcher is LauncherName.KUBERNETES:
        from progdistill.jobs.kubernetes.preflight import dataset_for_pods, require_reachable

        require_reachable(settings.cluster, settings.store, settings.compute.world_size)
        dataset = dataset_for_pods(settings.cluster, named, settings.store, default_data_root())
    elif "ARGO_WORKFLOW_TEMPLATE" not in os.environ:  # there, later steps have pods with other devices
        _check_device(settings)
    if teacher is not None and data_of_teacher:
        require_data_of(dataset, teacher.identity.dataset_fingerprint, f"--from {options.from_}")
    _check_guidance(settings)
    _check_fit(settings, dataset)
    _check_mirroring(settings, dataset)
    check_evaluator(store, settings.evaluation, dataset)
    evaluation = pinned_statistics(store, pinned(settings.evaluation))
    settings = settings.model_copy(update={"evaluation": evaluation})
    run = PreparedRun(
        settings=settings,
        dataset=dataset,
        parameters=parameter_count(settings.model.network, settings.model.out_channels),
        like=None if like is None else (str(reference), like.checkpoint_id),
        other_data=teacher is not None and not is_data_of(dataset, teacher.identity.dataset_fingerprint),
        ignored_overrides=_without_effect(options, asked, settings),
    )
    _check_ranks(settings)
    _check_disk(run, store)
    return run


def _dataset_of(teacher: CheckpointManifest, options: RunOptions) -> str:
    name = teacher.provenance.dataset_name
    if name == UNKNOWN_DATASET:
        raise UsageError(
            f"--from {options.from_}: it is not known what this imported model was trained on: say with"
            " --dataset which images its students shall learn from"
        )
    return name


def _branched(settings: Settings, options: RunOptions, teacher: CheckpointManifest) -> Settings:
    """Start from `teacher`: its architecture and its number of steps."""
    ladder, steps = settings.ladder, teacher.identity.sampling_steps
    if teacher.identity.kind is CheckpointKind.STUDENT and steps is not None:
        typed = options.ladder is not None and "ladder" not in options.defaults
        if typed and ladder[0] != steps:
            raise UsageError(
                f"--from {options.from_} is a student of {steps} sampling steps,"
                f" but --ladder {options.ladder} starts at {ladder[0]}:"
                f" write --ladder {steps}:{ladder[-1]}, or leave it out"
            )
        if steps <= ladder[-1]:
            raise UsageError(
                f"--from {options.from_} takes {steps} sampling steps already; there is nothing to distill"
                f" down to {ladder[-1]}: choose a checkpoint of more steps"
            )
        ladder = (steps, *(rung for rung in ladder if rung < steps))
    model = DenoiserConfig.model_validate(teacher.identity.architecture)
    changes = {"ladder": ladder, "first_teacher": teacher.id, "model": model}
    return settings.model_copy(update={**changes, "guidance": _guidance(settings, teacher, model)})


def _without_effect(options: RunOptions, asked: Settings, settings: Settings) -> tuple[str, ...]:
    """What `--set` says of the model, `asked`, and the run's model, its teacher's, is not."""
    paths = dict.fromkeys(assignment.partition("=")[0].strip() for assignment in options.set)
    of_model = [path for path in paths if path.split(".")[0] == "model"]
    return tuple(path for path in of_model if _at(asked, path) != _at(settings, path))


def _at(settings: Settings, path: str) -> object:
    return reduce(getattr, path.split("."), settings)


def _guidance(settings: Settings, teacher: CheckpointManifest, model: DenoiserConfig) -> GuidanceRange | None:
    """What students of `teacher` are guided with: what it was itself, else what the run asks for."""
    asked, own = settings.guidance, range_of(teacher)
    if own is not None:
        if asked not in (None, own):
            raise UsageError(
                f"--from {teacher.id[:12]} was distilled with guidance {own}, which its students keep: leave"
                f" --guidance {asked} out, or start from an undistilled model"
            )
        return own
    if asked is None:
        return None
    if not model.network.num_classes:
        raise UsageError(
            f"--guidance {asked} is toward a class, and --from {teacher.id[:12]} has none: leave it out"
        )
    if not can_be_guided(teacher):
        raise UsageError(
            f"--guidance {asked} needs an undistilled teacher that was trained with dropped labels, which"
            f" --from {teacher.id[:12]} is not: train one, --set base.label_dropout={LABEL_DROPOUT}"
        )
    return asked


def _check_fit(settings: Settings, dataset: DatasetInfo) -> None:
    network = settings.model.network
    wanted = (network.image_channels, network.image_size, network.num_classes)
    found = (dataset.channels, dataset.image_size, dataset.num_classes)
    if wanted[:2] == found[:2] and network.num_classes in (0, found[2]):
        return
    owner, cure = f"preset {settings.preset}", "choose another --preset, or --set model.network.… to fit"
    if settings.first_teacher is not None:
        owner, cure = f"teacher {settings.first_teacher[:12]}", "choose another --dataset or another --from"
        if wanted[2] == found[2] + 1:
            cure += '; if its last class stands for "none", import it again with --label-dropout'
    raise UsageError(
        f"the network of {owner} is for {wanted[0]}×{wanted[1]}×{wanted[1]} images of {wanted[2]} classes,"
        f" but dataset {dataset.name} has {found[0]}×{found[1]}×{found[1]} of {found[2]}: {cure}"
    )


def _check_mirroring(settings: Settings, dataset: DatasetInfo) -> None:
    """Refuse flips of images that have a right way round; presets leave them out by themselves."""
    if dataset.horizontal_flip_safe:
        return
    trained: dict[str, TrainingSettings] = {"distill": settings.distill}
    if settings.first_teacher is None:
        trained["base"] = settings.base
    mirrored = [name for name, training in trained.items() if training.horizontal_flip]
    if mirrored:
        options = " ".join(f"--set {name}.horizontal_flip=false" for name in sorted(mirrored))
        raise UsageError(
            f"{mirrored[0]}.horizontal_flip is true, but images of {dataset.name} change meaning when"
            f" mirrored: {options}"
        )


def _check_guidance(settings: Settings) -> None:
    """Refuse to measure with a weight that the students will not take, before they are trained."""
    if settings.evaluation.guidance is not None and settings.guidance is None:
        raise UsageError(
            f"evaluation.guidance = {settings.evaluation.guidance:g}, but students of this run learn no"
            " guidance: leave it out, or distill with --guidance LOWEST:HIGHEST"
        )


def _check_device(settings: Settings) -> None:
    """Refuse a device that this machine has not; torch, which takes two seconds, has the last word."""
    if settings.compute.device in ("cuda", "tpu") and accelerators_here().kind != settings.compute.device:
        from progdistill.training.devices import choose_device

        choose_device(settings.compute.device, 0)


def _check_ranks(settings: Settings) -> None:
    """Equal parts of a batch for every rank, said before the first job starts."""
    for name, kind in (("base", "train_base"), ("distill", "distill")):
        size = getattr(settings, name).batch_size
        world_size = world_size_of(settings, kind)
        if size % world_size:
            raise UsageError(
                f"{name}.batch_size = {size} cannot be shared evenly by {world_size} ranks: choose a multiple"
                f" of {world_size}, or another number of ranks"
            )


def _check_disk(run: PreparedRun, store: Store) -> None:
    free = store.free_bytes()
    if free is not None and run.disk_bytes > free:
        raise UsageError(
            f"the plan needs up to {run.disk_bytes / 1e9:,.1f} GB in {store.uri}, where {free / 1e9:,.1f} GB"
            " are free: choose another --store, a shorter --ladder or a smaller model"
        )


def runs_folder() -> Path:
    """Where runs leave their reports and logs."""
    return Path("runs")
