"""The resolved configuration of a run: preset, options, then every --set."""

import difflib
import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from progdistill.config.cluster import ClusterSettings
from progdistill.config.ladder import parse_ladder
from progdistill.config.options import DEFAULT_STORE, DEFAULTS_FILE, RunOptions
from progdistill.config.overrides import changed, check_named_files
from progdistill.config.presets import (
    PRESETS,
    Preset,
    fitted,
    mirroring_only_where_safe,
    preset_name_for,
)
from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.names import PredictionType, check_combination
from progdistill.errors import UsageError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.models.config import DenoiserConfig
from progdistill.models_base import Frozen
from progdistill.training.config import (
    BaseTrainingSettings,
    ComputeSettings,
    DistillationSettings,
    LiveSettings,
    SnapshotSettings,
)
from progdistill.training.guidance import LABEL_DROPOUT, GuidanceRange, parse_guidance

DEFAULT_DATASET = "digits"

OPTION_OF = {
    "dataset": "dataset",
    "first_teacher": "from",
    "ladder": "ladder",
    "preset": "preset",
    "store": "store",
}
"""Settings that are decided before any `--set` is read, and the option that decides each."""


class LauncherName(StrEnum):
    """Where jobs run."""

    LOCAL = "local"
    KUBERNETES = "kubernetes"


class Settings(Frozen):
    """Everything a run does, decided before it starts."""

    schema_version: Literal[1] = 1
    preset: str
    dataset: str = Field(description="name, folder or URI")
    store: str
    launcher: LauncherName = LauncherName.LOCAL
    seed: int = Field(0, ge=0)
    ladder: tuple[int, ...] = Field(description="sampling steps of the teacher, then of each student")
    first_teacher: str | None = Field(None, description="id of the checkpoint to start from; None: train one")
    guidance: GuidanceRange | None = Field(
        None, description="weights that students have as an input; None: students are not guided"
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

        An ε-model cannot be distilled to few steps (the paper's section 4).
        """
        teachers = self.model.prediction
        return self.distill.prediction or (PredictionType.V if teachers is PredictionType.EPS else teachers)

    @property
    def has_guided_stage(self) -> bool:
        """Whether guidance is distilled first; a teacher that has it as an input is past that."""
        return self.guidance is not None and not self.model.network.guidance_input

    @property
    def label_dropout(self) -> float:
        """The share of labels that the base model's training drops."""
        default = 0.0 if self.guidance is None else LABEL_DROPOUT
        return default if self.base.label_dropout is None else self.base.label_dropout


def settings_from(
    options: RunOptions, dataset: DatasetInfo | None = None, like: Settings | None = None
) -> Settings:
    """Resolve options into settings; `dataset` is the one they name, None for the embedded digits.

    They start from those of `like`, another run, else from a preset's. Where no preset is named, it is the
    dataset's own, or one that is made to fit the dataset.

    Raises UsageError for an unknown preset, a bad ladder, a --set path that is unknown or decided by an
    option of its own, a value out of range, guidance of a model that will not know what to be guided away
    from, and a combination of prediction and loss weight that the paper found not to work.
    """
    fields = _preset_fields(options, dataset) if like is None else like.model_dump(mode="json")
    fields |= {**_place(options), "ladder": list(_ladder(options, fields["ladder"]))}
    if options.dataset is not None:
        fields["dataset"] = options.dataset
    if options.seed is not None:
        fields["seed"] = options.seed
    if options.base_updates is not None:
        fields["base"]["updates"] = options.base_updates
    if options.updates_per_stage is not None:
        fields["distill"] |= {
            "updates": options.updates_per_stage,
            "updates_at_steps": {},
            "guidance_updates": None,
        }
    known_stages = fields["distill"]["updates_at_steps"]
    for assignment in options.set:
        _assign(fields, assignment)
    fields["evaluation"] = _evaluation(fields["evaluation"], options.set, like)
    settings = _validated(fields)
    _check_stages(settings, known_stages)
    check_combination(settings.model.prediction, settings.base.loss_weight, distilling=False)
    return settings if options.from_ else _with_label_dropout(settings)


def check_paths(assignments: Sequence[str]) -> None:
    """Raise UsageError for a `--set` of no value or of no setting; what values fit is the preset's to say."""
    fields = _preset_fields(RunOptions(), None) | _place(RunOptions())
    for assignment in assignments:
        _assign(fields, assignment)


def _with_label_dropout(settings: Settings) -> Settings:
    """The base model has a label for "no class" where its training drops labels, and no weight as input."""
    network = settings.model.network
    if network.guidance_input:
        raise UsageError(
            "model.network.guidance_input is true, but a base model learns no weights: leave it out; students"
            " have that input with --guidance LOWEST:HIGHEST"
        )
    if settings.guidance is not None and settings.label_dropout == 0:
        raise UsageError(
            f"--guidance {settings.guidance} needs a base model that was trained with dropped labels, but"
            f" base.label_dropout is 0: leave it out, or set it to {LABEL_DROPOUT}"
        )
    if not settings.label_dropout and network.label_dropout:
        raise UsageError(
            "model.network.label_dropout is true, but training drops no label: set base.label_dropout, which"
            f" decides both, to {LABEL_DROPOUT}"
        )
    if not settings.label_dropout:
        return settings
    if not network.num_classes:
        what = f"--guidance {settings.guidance}" if settings.guidance else "base.label_dropout"
        raise UsageError(
            f"{what} is for models with classes, and preset {settings.preset} has none:"
            " choose another --preset"
        )
    network = network.model_copy(update={"label_dropout": True})
    return settings.model_copy(update={"model": settings.model.model_copy(update={"network": network})})


def _preset_fields(options: RunOptions, dataset: DatasetInfo | None) -> dict[str, Any]:
    name, preset = _preset(options, dataset)
    preset = preset if dataset is None else mirroring_only_where_safe(preset, dataset)
    models = ("model", "base", "distill", "evaluation", "snapshots", "compute")
    fields = {key: getattr(preset, key).model_dump(mode="json") for key in models}
    return {
        **fields,
        "preset": name,
        "dataset": DEFAULT_DATASET,
        "seed": 0,
        "ladder": parse_ladder(preset.ladder),
        "guidance": parse_guidance(options.guidance).model_dump() if options.guidance else None,
        "live": LiveSettings().model_dump(),
    }


def _place(options: RunOptions) -> dict[str, Any]:
    """Where a run works and keeps its results; that is never taken over from another."""
    return {
        "cluster": ClusterSettings().model_dump(mode="json"),
        "store": options.store or DEFAULT_STORE,
        "launcher": options.launcher or str(LauncherName.LOCAL),
    }


def _preset(options: RunOptions, dataset: DatasetInfo | None) -> tuple[str, Preset]:
    if options.preset is not None:
        if options.preset not in PRESETS:
            raise UsageError(f"unknown preset {options.preset!r}; known are {', '.join(PRESETS)}")
        return options.preset, PRESETS[options.preset]
    if dataset is None:
        return DEFAULT_DATASET, PRESETS[DEFAULT_DATASET]
    name = preset_name_for(dataset)
    preset = PRESETS[name]
    return name, preset if name == dataset.name else fitted(preset, dataset)


def _ladder(options: RunOptions, otherwise: Sequence[int]) -> tuple[int, ...]:
    rungs = parse_ladder(options.ladder) if options.ladder else tuple(otherwise)
    if options.target_steps is None:
        return rungs
    if options.target_steps not in rungs:
        raise UsageError(
            f"--target-steps {options.target_steps} is no rung of the ladder {', '.join(map(str, rungs))}"
        )
    return rungs[: rungs.index(options.target_steps) + 1]


def _assign(fields: dict[str, Any], assignment: str) -> None:
    path, _, text = assignment.partition("=")
    path = path.strip()
    if not text.strip():
        raise UsageError(f"--set {assignment!r} has no value: write --set KEY.PATH=VALUE")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    _put(fields, path, value)


def _put(fields: dict[str, Any], path: str, value: Any) -> None:
    """Set the field at `path`; a table for a section, as of `[set.distill]`, sets only what it names."""
    if path in OPTION_OF:
        option = OPTION_OF[path]
        raise UsageError(
            f"--set {path}: this is decided before any --set: give it as --{option}, or as `{option} = …`"
            f" above [set] in {DEFAULTS_FILE}"
        )
    *parents, leaf = path.split(".")
    place: Any = fields
    for part in parents:
        place = place.get(part) if isinstance(place, dict) else None
    if not isinstance(place, dict) or leaf not in place:
        near = difflib.get_close_matches(path, list(_paths(fields)), n=1, cutoff=0.0)
        raise UsageError(f"--set {path}: there is no such setting; did you mean {near[0]}?")
    if isinstance(value, dict) and _is_section(path):
        for name, inner in value.items():
            _put(fields, f"{path}.{name}", inner)
    else:
        place[leaf] = value


def _is_section(path: str) -> bool:
    """Whether a path leads to settings of their own, and not to one whose value is a table."""
    kind: Any = Settings
    for part in path.split("."):
        fields = kind.model_fields if _is_model(kind) else {}
        kind = fields[part].annotation if part in fields else None
    return _is_model(kind)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _check_stages(settings: Settings, known: Mapping[str, int]) -> None:
    """Refuse updates for stages that the ladder cannot have; `known` came with the preset or --like."""
    first = settings.ladder[0]
    for steps in settings.distill.updates_at_steps:
        if str(steps) not in known and not (0 < steps <= first and steps & (steps - 1) == 0):
            rungs = ", ".join(map(str, settings.ladder[1:]))
            raise UsageError(
                f"distill.updates_at_steps names a student of {steps} sampling steps, which the ladder does"
                f" not have: its students take {rungs}"
            )


def _evaluation(assigned: Any, assignments: Sequence[str], like: Settings | None) -> Any:
    """Evaluation settings after every --set, without what `like` records of files that were named anew."""
    if not isinstance(assigned, dict):
        return assigned  # and told so by their validation
    named: set[str] = set()
    for path, _, text in (assignment.partition("=") for assignment in assignments):
        section, _, name = path.strip().partition(".")
        if section == "evaluation":
            named |= {name} if name else set(json.loads(text))
    changes = {name: value for name, value in assigned.items() if name in named}
    fields: dict[str, Any] = assigned if like is None else changed(like.evaluation.model_dump(), changes)
    check_named_files(fields, changes)
    return fields


def _paths(fields: dict[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name, value in fields.items():
        found += _paths(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [prefix + name]
    return found


def _validated(fields: dict[str, Any]) -> Settings:
    try:
        settings = Settings.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where, value = ".".join(map(str, first["loc"])), first.get("input")
        given = "" if isinstance(value, (dict, list, tuple)) else f" = {value!r}"
        raise UsageError(f"{where}{given}: {first['msg'].removeprefix('Value error, ')}") from None
    _refuse_booleans(fields, settings.model_dump(mode="json"))
    return settings


def _refuse_booleans(given: Any, read: Any, path: str = "") -> None:
    """Refuse true and false where a number is wanted: they would be read as 1 and 0."""
    if isinstance(given, bool) and not isinstance(read, bool):
        raise UsageError(f"{path} = {json.dumps(given)}: give a number")
    if isinstance(given, (dict, list)):
        parts = given.items() if isinstance(given, dict) else enumerate(given)
        inside = read if isinstance(given, dict) else dict(enumerate(read))
        for name, part in parts:
            _refuse_booleans(part, inside.get(name), f"{path}.{name}" if path else str(name))
