"""The preset of each dataset: every hyperparameter, with where it comes from."""

import json
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
from progdistill.models_base import first_problem
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


def _paper(
    architecture: str,
    base_updates: int,
    *,
    ladder: str = "1024:1",
    prediction: PredictionType = PredictionType.X_EPS,
    batch_size: int = 2048,
    distillation_rate: float = 1e-4,
    snapshot_interval: int = 500,
) -> Preset:
    """Appendix E: "Adam with standard settings (learning rate of 3e-4), a parameter moving average with constant 0.9999
    and very slight decoupled weight decay with a constant of 0.001 … clip the norm of gradients to 1"; 50k updates a
    stage, 100k for 2 and 1 sampling steps, learning rate annealed linearly to zero. The defaults are those for ImageNet
    and LSUN (section 5.2).
    The warm-up, distillation without a moving average, without weight decay and with a fresh optimizer each stage, the
    truncated-SNR loss and random horizontal flips are the published code's."""
    return Preset(
        ladder=ladder,
        model=DenoiserConfig(network=ARCHITECTURES[architecture], prediction=prediction),
        base=BaseTrainingSettings(
            updates=base_updates,
            batch_size=batch_size,
            learning_rate=3e-4,
            warmup_updates=1000,
            weight_decay=0.001,
            gradient_clip_norm=1.0,
            ema_decay=0.9999,
            loss_weight=LossWeight.TRUNCATED_SNR,
            horizontal_flip=True,
        ),
        distill=DistillationSettings(
            updates=50_000,
            updates_at_steps={2: 100_000, 1: 100_000},
            batch_size=batch_size,
            learning_rate=distillation_rate,
            learning_rate_schedule=LearningRateSchedule.LINEAR_TO_ZERO,
            gradient_clip_norm=1.0,
            loss_weight=LossWeight.TRUNCATED_SNR,
            horizontal_flip=True,
        ),
        evaluation=EvaluationSettings(evaluator="inception", samples=50_000),
        snapshots=SnapshotSettings(interval_updates=snapshot_interval),
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


def _emoji(architecture: str) -> Preset:
    """As for the digits, longer: sized for two CPU cores, not tuned."""
    digits = _digits()
    changes = {"updates": 4000, "warmup_updates": 200, "learning_rate": 1e-3, "ema_decay": 0.999}
    return digits._replace(
        model=DenoiserConfig(network=ARCHITECTURES[architecture], prediction=PredictionType.V),
        base=digits.base.model_copy(update=changes),
        distill=digits.distill.model_copy(update={"updates": 500, "guidance_updates": 1000, "learning_rate": 5e-4}),
        evaluation=EvaluationSettings(evaluator="efficientnet_lite0"),
    )


def _latent() -> Preset:
    """For students of an imported pipeline (--from), which has its own network: a cautious start, not tuned."""
    return Preset(
        ladder="64:4",
        model=DenoiserConfig(network=ARCHITECTURES["emoji"], prediction=PredictionType.V),
        base=_emoji("emoji").base,
        distill=DistillationSettings(
            updates=2000,
            batch_size=16,
            learning_rate=1e-5,
            learning_rate_schedule=LearningRateSchedule.LINEAR_TO_ZERO,
            warmup_updates=100,
            loss_weight=LossWeight.TRUNCATED_SNR,
        ),
        evaluation=EvaluationSettings(evaluator="efficientnet_lite0"),
        snapshots=SnapshotSettings(interval_updates=500),
    )


PRESETS = {
    "digits": _digits(),
    "emoji16": _emoji("emoji16"),
    "emoji": _emoji("emoji"),
    "latent": _latent(),
    "cifar10": _paper(
        "cifar10",
        800_000,
        ladder="8192:1",
        prediction=PredictionType.X,
        batch_size=128,
        distillation_rate=5e-5,  # of the published code; the paper's text says 1e-4
        snapshot_interval=2000,
    ),
    "imagenet64": _paper("imagenet64", 550_000),
    "lsun_bedroom": _paper("lsun128", 400_000),
    "lsun_church": _paper("lsun128", 400_000),
}

_OF_IMAGE_SIZE = {8: "digits", 32: "cifar10", 64: "imagenet64", 128: "lsun_bedroom"}


def _name_for(dataset: DatasetInfo) -> str:
    """The dataset's own preset, else that of the paper's dataset with images of this size, or the next larger one."""
    if not dataset.image_size:
        return "latent"
    if (sized := f"{dataset.name}{dataset.image_size}") in PRESETS:
        return sized
    if dataset.name in PRESETS:
        return dataset.name
    return next((name for size, name in _OF_IMAGE_SIZE.items() if size >= dataset.image_size), "lsun_bedroom")


def _require_network(name: str, dataset: DatasetInfo) -> None:
    """Raise UsageError, with the settings that help, where the preset's network is for images of another size."""
    network, size = PRESETS[name].model.unet, dataset.image_size
    if not size:
        raise UsageError(f"dataset {dataset.name} has no images to train a base model on: give a model with --from")
    if network.image_size == size:
        return
    advice = f"prepare it again with --image-size {', '.join(map(str, _OF_IMAGE_SIZE))}"
    levels = range(len(network.channel_multipliers))
    if size % 2 ** levels[-1] == 0:
        attended = [size >> level for level in levels if network.has_attention(level)]
        shape = {
            "image_size": size,
            "image_channels": dataset.channels,
            "num_classes": dataset.num_classes,
            "attention_resolutions": json.dumps(attended, separators=(",", ":")),
        }
        changes = " ".join(f"--set model.network.{field}={value}" for field, value in shape.items())
        advice += f", or train preset {name}'s network at that size: --preset {name} {changes}"
    raise UsageError(f"there is no preset for the {size}×{size} images of {dataset.name}: {advice}")


def preset_for(
    name: str | None, dataset: DatasetInfo | None, model: DenoiserConfig | None = None
) -> tuple[str, Preset]:
    """A preset and its name.

    Args:
        name: of the preset; None: the dataset's own, or one with the dataset's channels and classes.
        dataset: what to train on; None: the embedded digits. If mirrored images of it would be wrong, the
            preset has no horizontal flips.
        model: in place of the preset's own, which then need not fit the dataset.

    Raises:
        UsageError: for an unknown name, and where no preset has images of the dataset's size.
    """
    if name is not None and name not in PRESETS:
        raise UsageError(f"unknown preset {name!r}; valid presets: {', '.join(PRESETS)}")
    own = name or (DEFAULT_DATASET if dataset is None else _name_for(dataset))
    preset = PRESETS[own]
    if dataset is not None and own not in (name, dataset.name):
        if model is None:
            _require_network(own, dataset)
        preset = _fitted(preset, dataset)
    if dataset is not None and not dataset.horizontal_flip_safe:
        never = {"horizontal_flip": False}
        base, distill = preset.base.model_copy(update=never), preset.distill.model_copy(update=never)
        preset = preset._replace(base=base, distill=distill)
    return own, preset if model is None else preset._replace(model=model)


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
    """A run's recorded evaluation settings, or the dataset's preset's, with `changes`; UsageError for a bad one."""
    own = recorded
    if not isinstance(own, dict):
        own = _fitted(PRESETS[_name_for(info)], info).evaluation.model_dump(mode="json")
    fields = apply_overrides(own, {"max_sampling_steps": sampling_steps, **changes})
    check_named_files(fields, changes)
    try:
        return EvaluationSettings.model_validate(fields)
    except ValidationError as error:
        raise UsageError(first_problem(error)) from None
