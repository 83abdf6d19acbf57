"""The preset of each dataset: every hyperparameter, with where it comes from."""

from collections.abc import Mapping
from typing import NamedTuple

from pydantic import JsonValue, ValidationError

from progdistill.config.overrides import apply_overrides, check_named_files
from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.names import LossWeight, PredictionType
from progdistill.errors import UsageError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.features.weights import digits_classifier_fits
from progdistill.models.config import ARCHITECTURES, DenoiserConfig
from progdistill.training.config import (
    BaseTrainingSettings,
    ComputeSettings,
    DistillationSettings,
    LearningRateSchedule,
    SnapshotSettings,
)

DEFAULT_DATASET = "digits"


class Preset(NamedTuple):
    """Everything of a configuration that depends on the dataset."""

    ladder: str
    model: DenoiserConfig
    base: BaseTrainingSettings
    distill: DistillationSettings
    evaluation: EvaluationSettings
    snapshots: SnapshotSettings
    compute: ComputeSettings = ComputeSettings()


def _paper_base(updates: int, batch_size: int, loss_weight: LossWeight, flip: bool) -> BaseTrainingSettings:
    """Appendix E: "Adam with standard settings (learning rate of 3e-4), a parameter moving average with
    constant 0.9999 and very slight decoupled weight decay with a constant of 0.001 … clip the norm of
    gradients to 1".
    The warm-up of 1,000 updates is the published code's."""
    return BaseTrainingSettings(
        updates=updates,
        batch_size=batch_size,
        learning_rate=3e-4,
        warmup_updates=1000,
        weight_decay=0.001,
        gradient_clip_norm=1.0,
        ema_decay=0.9999,
        loss_weight=loss_weight,
        horizontal_flip=flip,
    )


def _paper_distillation(
    batch_size: int, learning_rate: float, loss_weight: LossWeight, flip: bool
) -> DistillationSettings:
    """Appendix E: 50k updates a stage, 100k for 2 and 1 sampling steps, learning rate annealed linearly to
    zero. No moving average and a fresh optimizer each stage, as in the published code."""
    return DistillationSettings(
        updates=50_000,
        updates_at_steps={2: 100_000, 1: 100_000},
        batch_size=batch_size,
        learning_rate=learning_rate,
        learning_rate_schedule=LearningRateSchedule.LINEAR_TO_ZERO,
        weight_decay=0.001,
        gradient_clip_norm=1.0,
        loss_weight=loss_weight,
        horizontal_flip=flip,
    )


def _large(architecture: str, updates: int, samples: int, flip: bool) -> Preset:
    """Appendix E for ImageNet and LSUN: (x, ε) prediction, batch 2048, start at 1024 steps (section 5.2)."""
    weight = LossWeight.TRUNCATED_SNR
    return Preset(
        ladder="1024:1",
        model=DenoiserConfig(network=ARCHITECTURES[architecture], prediction=PredictionType.X_EPS),
        base=_paper_base(updates, 2048, weight, flip),
        distill=_paper_distillation(2048, 1e-4, weight, flip),
        evaluation=EvaluationSettings(evaluator="inception", samples=samples),
        snapshots=SnapshotSettings(interval_updates=500),
    )


def _digits() -> Preset:
    """Chosen by measurement for two CPU cores: v-prediction with SNR+1 needs fewest updates at this size."""
    return Preset(
        ladder="64:1",
        model=DenoiserConfig(network=ARCHITECTURES["digits"], prediction=PredictionType.V),
        base=BaseTrainingSettings(
            updates=1000,
            batch_size=64,
            learning_rate=2e-3,
            warmup_updates=50,
            weight_decay=0.001,
            ema_decay=0.99,
            loss_weight=LossWeight.SNR_PLUS_ONE,
        ),
        distill=DistillationSettings(
            updates=200,
            guidance_updates=400,
            batch_size=64,
            learning_rate=1e-3,
            learning_rate_schedule=LearningRateSchedule.LINEAR_TO_ZERO,
            weight_decay=0.001,
            loss_weight=LossWeight.SNR_PLUS_ONE,
        ),
        evaluation=EvaluationSettings(),
        snapshots=SnapshotSettings(interval_updates=100),
        # A second thread gains 1.2 × on two idle cores and loses 10 × where another process wants one.
        compute=ComputeSettings(threads_per_rank=1),
    )


def _cifar10() -> Preset:
    """Appendix E, with x-prediction as in the paper; distillation at 5e-5, which the published code
    uses where the paper's text says 1e-4, and its truncated-SNR loss and random horizontal flips."""
    weight = LossWeight.TRUNCATED_SNR
    return Preset(
        ladder="8192:1",
        model=DenoiserConfig(network=ARCHITECTURES["cifar10"], prediction=PredictionType.X),
        base=_paper_base(800_000, 128, weight, True),
        distill=_paper_distillation(128, 5e-5, weight, True),
        evaluation=EvaluationSettings(evaluator="inception", samples=50_000),
        snapshots=SnapshotSettings(interval_updates=2000),
    )


PRESETS = {
    "digits": _digits(),
    "cifar10": _cifar10(),
    "imagenet64": _large("imagenet64", 550_000, 50_000, True),
    "lsun_bedroom": _large("lsun128", 400_000, 50_000, True),
    "lsun_church": _large("lsun128", 400_000, 50_000, True),
}

_OF_IMAGE_SIZE = {8: "digits", 32: "cifar10", 64: "imagenet64", 128: "lsun_bedroom"}


def preset_name_for(dataset: DatasetInfo) -> str:
    """The dataset's own preset, else that of the paper's dataset with images of the same size.

    Raises UsageError where there is none.
    """
    if dataset.name in PRESETS:
        return dataset.name
    size = dataset.image_size
    if size not in _OF_IMAGE_SIZE:
        raise UsageError(
            f"there is no preset for the {size}×{size} images of {dataset.name}: prepare it again with"
            f" --image-size {', '.join(map(str, _OF_IMAGE_SIZE))}, or name a --preset and change its network,"
            f" --set model.network.image_size={size}"
        )
    return _OF_IMAGE_SIZE[size]


def preset_for(name: str | None, dataset: DatasetInfo | None) -> tuple[str, Preset]:
    """A preset and its name.

    Args:
        name: of the preset; None: the dataset's own, or one with the dataset's channels and classes.
        dataset: what to train on; None: the embedded digits. If mirrored images of it would be wrong, the
            preset has no horizontal flips.

    Raises:
        UsageError: for an unknown name, and where no preset has images of the dataset's size.
    """
    if name is not None and name not in PRESETS:
        raise UsageError(f"unknown preset {name!r}; valid presets: {', '.join(PRESETS)}")
    if dataset is None:
        return name or DEFAULT_DATASET, PRESETS[name or DEFAULT_DATASET]
    own = name or preset_name_for(dataset)
    preset = PRESETS[own]
    if name is None and own != dataset.name:
        preset = _fitted(preset, dataset)
    if not dataset.horizontal_flip_safe:
        never = {"horizontal_flip": False}
        base, distill = preset.base.model_copy(update=never), preset.distill.model_copy(update=never)
        preset = preset._replace(base=base, distill=distill)
    return own, preset


def _fitted(preset: Preset, dataset: DatasetInfo) -> Preset:
    shape = {"image_channels": dataset.channels, "num_classes": dataset.num_classes}
    network = preset.model.network.model_copy(update=shape)
    evaluation = preset.evaluation
    if evaluation.evaluator == "digits_classifier" and not digits_classifier_fits(dataset):
        evaluation = evaluation.model_copy(update={"evaluator": "inception"})
    return preset._replace(model=preset.model.model_copy(update={"network": network}), evaluation=evaluation)


def evaluation_settings(
    recorded: JsonValue, info: DatasetInfo, *, sampling_steps: int, changes: Mapping[str, JsonValue]
) -> EvaluationSettings:
    """A run's recorded evaluation settings, or those of the dataset's preset where there are none, changed.

    Raises UsageError for a change that is not valid.
    """
    fields = recorded
    if not isinstance(fields, dict):
        fields = PRESETS[preset_name_for(info)].evaluation.model_dump(mode="json")
    fields = apply_overrides(fields, {"max_sampling_steps": sampling_steps, **changes})
    check_named_files(fields, changes)
    try:
        return EvaluationSettings.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{'.'.join(map(str, first['loc']))} = {first['input']!r}: {first['msg']}") from None
