"""The settings of a run: a preset's, or those of another run, changed by options and then by every --set."""

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field, ValidationError

from progdistill.config.cluster import ClusterSettings
from progdistill.config.ladder import parse_ladder, parse_objectives
from progdistill.config.options import DEFAULT_STORE, DEFAULTS_FILE, RunOptions
from progdistill.config.overrides import Override, apply_overrides, check_named_files, overridden, set_field
from progdistill.config.presets import DEFAULT_DATASET, preset_for
from progdistill.data.columns import LABEL
from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.grid import Grid, for_ladder, grid_named
from progdistill.diffusion.names import LossWeight, PredictionType, check_combination
from progdistill.errors import UsageError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.models.config import DenoiserConfig
from progdistill.models_base import Frozen, check_plain, first_problem, leaves
from progdistill.training.config import (
    BaseTrainingSettings,
    ComputeSettings,
    DistillationSettings,
    LiveSettings,
    LoraSettings,
    SnapshotSettings,
    StageObjective,
    TrackerName,
)
from progdistill.training.guidance import LABEL_DROPOUT, GuidanceRange, parse_guidance_scale

OPTIONS = {
    **{"dataset": "dataset", "first_teacher": "from", "ladder": "ladder", "preset": "preset", "store": "store"},
    "live.trackers": "track",
}
"""Settings that an option of their own decides, before any `--set` is read."""


class LauncherName(StrEnum):
    """Where jobs run."""

    LOCAL = "local"
    KUBERNETES = "kubernetes"


class Settings(Frozen):
    """Everything a run does, decided before it starts."""

    schema_version: Literal[1] = Field(1, description="of these settings as JSON")
    preset: str = Field(description="name of the preset that the settings began with")
    dataset: str = Field(description="name, folder or URI")
    store: str = Field(description="where checkpoints live: a folder, s3://bucket/prefix or gs://bucket/prefix")
    launcher: LauncherName = Field(LauncherName.LOCAL, description="where jobs run")
    seed: int = Field(0, ge=0, description="of every random choice of training")
    ladder: tuple[int, ...] = Field(description="sampling steps of the teacher, then of each student")
    first_teacher: str | None = Field(None, description="id of the checkpoint to start from; None: train one")
    guidance_scale: GuidanceRange | None = Field(
        None, description="guidance scales that students take as an input; None: students are not guided"
    )
    model: DenoiserConfig = Field(description="of the first teacher")
    base: BaseTrainingSettings
    distill: DistillationSettings
    evaluation: EvaluationSettings
    snapshots: SnapshotSettings
    compute: ComputeSettings = ComputeSettings()
    live: LiveSettings = LiveSettings()
    cluster: ClusterSettings = Field(ClusterSettings(), description="for the launcher kubernetes")

    @property
    def student_prediction(self) -> PredictionType:
        """What students predict: as set, else what the first teacher predicts, or v where that is ε.

        An ε-model is not distilled to few steps as well as a v-model (the paper's section 4). But an adapter does not
        change what its base predicts.
        """
        teachers = self.model.prediction
        changed = teachers is PredictionType.EPS and self.lora is None
        return self.distill.prediction or (PredictionType.V if changed else teachers)

    @property
    def grid(self) -> Grid:
        """The grid of all students: as set, else that of the first teacher.

        Raises:
            UsageError: No grid has the set name, or it does not suit the teacher.
        """
        name, top = self.distill.grid, self.ladder[0]
        grid = self.model.grid if name == "auto" else grid_named(name, self.model.foreign_schedule, top)
        return for_ladder(grid, top)

    def objective_of(self, stage_index: int) -> StageObjective:
        """What the student of rung `stage_index` of the ladder learns."""
        steps, guided = self.ladder[stage_index], self.guidance_scale is not None
        return self.distill.objective_of(steps, first_stage=stage_index == 1, guided=guided)

    @property
    def has_guided_stage(self) -> bool:
        """Whether guidance is distilled first; a teacher that has it as an input is past that."""
        return self.guidance_scale is not None and not self.model.network.guidance_input

    @property
    def folds_guidance(self) -> bool:
        """Whether students have one guidance scale folded in: as adapters, or because their network has no place."""
        network = self.model.network
        as_input = network.guidance_input or (network.can_take_guidance and self.lora is None)
        return self.guidance_scale is not None and not as_input

    @property
    def measured_evaluation(self) -> EvaluationSettings:
        """How all rungs are measured: unless a scale is set, with the lowest that guided students learn."""
        learned = None if self.folds_guidance else self.guidance_scale
        if self.evaluation.guidance_scale is not None or learned is None or learned.lowest == 1:
            return self.evaluation
        return self.evaluation.model_copy(update={"guidance_scale": learned.lowest})

    @property
    def lora(self) -> LoraSettings | None:
        """The adapter of students; None: they have all weights of their own."""
        return None if self.distill.lora.rank is None else self.distill.lora

    @property
    def label_dropout(self) -> float:
        """The share of labels that the base model's training drops."""
        default = 0.0 if self.guidance_scale is None else LABEL_DROPOUT
        return default if self.base.label_dropout is None else self.base.label_dropout


def settings_from(
    options: RunOptions,
    dataset: DatasetInfo | None = None,
    recorded: Settings | None = None,
    model: DenoiserConfig | None = None,
) -> Settings:
    """Resolve options into settings.

    Args:
        options: what the user chose.
        dataset: the dataset that they name; None: the embedded digits.
        recorded: settings of another run to start from. None: those of a preset, which is the named one, the
            dataset's own, or the one for images of that size, made to fit the dataset.
        model: of the checkpoint to start from, which no --set changes; None: a base model is trained.

    Raises:
        UsageError: for an unknown preset, a bad ladder, a --set path that is unknown or has an option of its
            own, a value out of range, guidance of a model that cannot be guided, and a combination of
            prediction and loss weight that the paper found not to work.
    """
    fields = _preset_fields(options, dataset, model) if recorded is None else recorded.model_dump(mode="json")
    fields |= {name: value for name in ("dataset", "seed") if (value := getattr(options, name)) is not None}
    if options.ladder:
        ladder, objectives = parse_objectives(options.ladder)
        fields["ladder"], fields["distill"]["objective_at_steps"] = parse_ladder(ladder), objectives
    fields |= {**_place(options), "ladder": _down_to(options.target_steps, tuple(fields["ladder"]))}
    fields["live"]["trackers"] = _trackers(options.track)
    if options.base_updates is not None:
        fields["base"]["updates"] = options.base_updates
    if options.updates_per_stage is not None:
        fields["distill"] |= {"updates": options.updates_per_stage, "updates_at_steps": {}, "guidance_updates": None}
    known_stages = fields["distill"]["updates_at_steps"]
    for override in options.set:
        _set(fields, override)
    if model is not None:
        fields["model"] = model.model_dump(mode="json")
    if isinstance(fields["evaluation"], dict):  # validation refuses what is not
        changes = {name: fields["evaluation"][name] for name in overridden(options.set, "evaluation")}
        if recorded is not None:
            fields["evaluation"] = apply_overrides(recorded.evaluation.model_dump(mode="json"), changes)
        check_named_files(fields["evaluation"], changes)
    for path, value in leaves(fields):
        try:
            check_plain(value)
        except ValueError as error:
            raise UsageError(f"{path} cannot be used: {error}") from None
    try:
        # From JSON, in which strict validation still reads names as enums and lists as tuples.
        settings = Settings.model_validate_json(json.dumps(fields), strict=True)
    except ValidationError as error:
        raise UsageError(first_problem(error)) from None
    _check_stages(settings, known_stages)
    if model is not None:
        return settings if recorded is not None else _with_loss_weight_of_eps(settings, options)
    check_combination(settings.model.prediction, settings.base.loss_weight, distilling=False)
    return _with_label_dropout(settings)


def _with_loss_weight_of_eps(settings: Settings, options: RunOptions) -> Settings:
    """Adapters of an ε-model predict ε, with which a preset's truncated SNR diverges: SNR, the plain error of ε."""
    distill = settings.distill
    chosen = {"loss_weight", "prediction"} & overridden(options.set, "distill")
    if chosen or settings.student_prediction is not PredictionType.EPS:
        return settings
    if distill.loss_weight is not LossWeight.TRUNCATED_SNR:
        return settings
    return settings.model_copy(update={"distill": distill.model_copy(update={"loss_weight": LossWeight.SNR})})


def check_paths(overrides: Sequence[Override]) -> None:
    """Raise UsageError for an override of no setting; whether its value fits depends on the preset."""
    fields = _preset_fields(RunOptions(), None, None) | _place(RunOptions())
    for override in overrides:
        _set(fields, override)


def _with_label_dropout(settings: Settings) -> Settings:
    """Give the base model a label for "no class" if its training drops labels."""
    network, scales = settings.model.network, settings.guidance_scale
    if network.guidance_input:
        raise UsageError(
            "model.network.guidance_input is true, but a base model does not take a guidance scale: leave it"
            " out; with --guidance-scale LOWEST:HIGHEST students have that input"
        )
    if not settings.label_dropout:
        if scales is not None:
            raise UsageError(
                f"--guidance-scale {scales} needs a base model trained with label dropout, but base.label_dropout"
                f" is 0: leave it out, or set it to {LABEL_DROPOUT}"
            )
        if network.label_dropout:
            raise UsageError(
                "model.network.label_dropout is true, but training drops no label: set base.label_dropout, which"
                f" decides both, to {LABEL_DROPOUT}"
            )
        return settings
    if any(column.name != LABEL for column in network.columns):
        return settings  # its dataset has the empty prompt
    if not network.num_classes:
        what = f"--guidance-scale {scales}" if scales else "base.label_dropout"
        raise UsageError(
            f"{what} is for models with classes, and preset {settings.preset} has none: choose another --preset"
        )
    network = network.model_copy(update={"label_dropout": True})
    return settings.model_copy(update={"model": settings.model.model_copy(update={"network": network})})


def _preset_fields(options: RunOptions, dataset: DatasetInfo | None, model: DenoiserConfig | None) -> dict[str, Any]:
    name, preset = preset_for(options.preset, dataset, model)
    scales = options.guidance_scale
    models = {**preset._asdict(), "live": LiveSettings()}
    ladder = parse_ladder(models.pop("ladder"))
    return {
        **{key: model.model_dump(mode="json") for key, model in models.items()},
        "preset": name,
        "dataset": DEFAULT_DATASET,
        "seed": 0,
        "ladder": ladder,
        "guidance_scale": scales and parse_guidance_scale(scales).model_dump(mode="json"),
    }


def _place(options: RunOptions) -> dict[str, Any]:
    """Where a run works and stores its results; never taken over from another run."""
    return {
        "cluster": ClusterSettings().model_dump(mode="json"),
        "store": options.store or DEFAULT_STORE,
        "launcher": options.launcher or str(LauncherName.LOCAL),
    }


def _trackers(text: str | None) -> list[str]:
    names = [] if text is None else [name.strip() for name in text.split(",")]
    known = [str(name) for name in TrackerName]
    for name in names:
        if name not in known:
            raise UsageError(f"--track {text}: unknown tracker {name!r}; there are {', '.join(known)}")
    return names


def _down_to(target_steps: int | None, rungs: tuple[int, ...]) -> tuple[int, ...]:
    if target_steps is None:
        return rungs
    if target_steps not in rungs:
        raise UsageError(f"--target-steps {target_steps} is not in the ladder {', '.join(map(str, rungs))}")
    return rungs[: rungs.index(target_steps) + 1]


def _set(fields: dict[str, Any], override: Override) -> None:
    if option := OPTIONS.get(override.path):
        raise UsageError(
            f"--set {override.path}: this has an option of its own: give it as --{option}, or as `{option} = …` above"
            f" [set] in {DEFAULTS_FILE}"
        )
    set_field(fields, override, Settings)


def _check_stages(settings: Settings, known: Mapping[str, int]) -> None:
    """Refuse updates and objectives for stages that the ladder cannot have; `known` came with the preset or a run."""
    first, *students = settings.ladder
    named = {"updates_at_steps": settings.distill.updates_at_steps}
    named |= {"objective_at_steps": dict.fromkeys(settings.distill.objective_at_steps, 0)}
    for name, stages in named.items():
        for steps in stages:
            if str(steps) not in known and not (0 < steps <= first and steps & (steps - 1) == 0):
                raise UsageError(
                    f"distill.{name} names a student of {steps} sampling steps, which the ladder does not have:"
                    f" its students take {', '.join(map(str, students))}"
                )
