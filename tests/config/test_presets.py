"""The presets contain the settings that the paper states."""

import pytest

from progdistill.config.ladder import parse_ladder
from progdistill.config.presets import PRESETS, preset_for
from progdistill.data.dataset import DatasetInfo
from progdistill.training.config import LearningRateSchedule


@pytest.mark.parametrize(
    ("name", "base_updates", "batch", "ladder", "prediction", "rate"),
    [
        ("cifar10", 800_000, 128, "8192:1", "x", 5e-5),  # 5e-5 is the published code's, the text says 1e-4
        ("imagenet64", 550_000, 2048, "1024:1", "x_eps", 1e-4),
        ("lsun_bedroom", 400_000, 2048, "1024:1", "x_eps", 1e-4),
        ("lsun_church", 400_000, 2048, "1024:1", "x_eps", 1e-4),
    ],
)
def test_the_large_presets_are_those_of_appendix_e(
    name: str, base_updates: int, batch: int, ladder: str, prediction: str, rate: float
) -> None:
    preset = PRESETS[name]
    base, distill = preset.base, preset.distill
    assert (base.updates, base.batch_size, distill.batch_size) == (base_updates, batch, batch)
    assert (base.learning_rate, base.ema_decay, base.weight_decay) == (3e-4, 0.9999, 0.001)
    assert base.gradient_clip_norm == distill.gradient_clip_norm == 1
    assert base.loss_weight == distill.loss_weight == "truncated_snr"
    assert (preset.ladder, preset.model.prediction) == (ladder, prediction)
    assert (distill.learning_rate, distill.ema_decay) == (rate, None)
    assert distill.learning_rate_schedule is LearningRateSchedule.LINEAR_TO_ZERO
    updates = [distill.for_stage(steps).updates for steps in parse_ladder(ladder)[1:]]
    assert updates == [50_000] * (len(updates) - 2) + [100_000, 100_000]


@pytest.mark.parametrize(
    ("channels", "classes", "evaluator"), [(1, 10, "digits_classifier"), (3, 10, "inception"), (1, 4, "inception")]
)
def test_own_images_of_the_digits_size_get_an_evaluator_that_reads_them(
    channels: int, classes: int, evaluator: str
) -> None:
    own = DatasetInfo(
        name="own",
        location="own",
        fingerprint="f" * 64,
        channels=channels,
        image_size=8,
        num_classes=classes,
        class_names=tuple(map(str, range(classes))),
        splits={"train": 100},
        horizontal_flip_safe=True,
    )
    assert preset_for(None, own)[1].evaluation.evaluator == evaluator
