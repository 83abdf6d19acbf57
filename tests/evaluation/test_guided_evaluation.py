"""A guided student is measured with a guidance scale from its training."""

from pathlib import Path

import pytest

from progdistill.data.dataset import DatasetInfo
from progdistill.errors import UsageError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.evaluate import evaluate_checkpoint
from progdistill.report.input import stage_entry
from progdistill.store.base import Store
from tests.evaluation.conftest import publish

SETTINGS = EvaluationSettings(samples=20, batch_size=20, shown_samples=4)


@pytest.mark.parametrize(
    ("trained", "requested", "scale"),
    [((3.0, 5.0), None, 3.0), ((1.0, 5.0), None, None), ((1.0, 5.0), 4.0, 4.0), ((3.0, 5.0), 1.0, None)],
)
def test_the_guidance_scale_is_the_lowest_trained_or_the_requested_one(
    trained: tuple[float, float],
    requested: float | None,
    scale: float | None,
    evaluated_store: Store,
    digits: DatasetInfo,
    tmp_path: Path,
) -> None:
    """The undistilled model is guided alike where it can be."""
    teacher = publish(evaluated_store, tmp_path, digits, seed=20, label_dropout=True)
    plain = publish(evaluated_store, tmp_path, digits, seed=21)
    student = publish(
        evaluated_store, tmp_path, digits, seed=22, parent=teacher.id, sampling_steps=2, guidance_scale=trained
    )
    settings = SETTINGS.model_copy(update={"guidance_scale": requested})
    for baseline, guided_too in ((teacher, True), (plain, False)):
        record = evaluate_checkpoint(evaluated_store, student, baseline, 2, settings, digits)
        own, other = record.distilled, record.baseline_ddim
        assert own is not None and other is not None
        assert own.spec.guidance_scale == scale
        assert other.spec.guidance_scale == (scale if guided_too else None)
        assert stage_entry(evaluated_store, student, record).guidance_scale == scale


def test_guidance_scales_give_different_samples(evaluated_store: Store, digits: DatasetInfo, tmp_path: Path) -> None:
    student = publish(
        evaluated_store, tmp_path, digits, seed=23, parent="b" * 64, sampling_steps=2, guidance_scale=(1.0, 5.0)
    )
    distances = set()
    for scale in (1.0, 2.0, 5.0):
        settings = SETTINGS.model_copy(update={"guidance_scale": scale})
        record = evaluate_checkpoint(evaluated_store, student, None, 2, settings, digits)
        assert record.distilled is not None
        distances.add(record.distilled.distance)
    assert len(distances) == 3


def test_a_model_that_cannot_be_guided_is_not(evaluated_store: Store, digits: DatasetInfo, tmp_path: Path) -> None:
    plain = publish(evaluated_store, tmp_path, digits, seed=21)
    settings = SETTINGS.model_copy(update={"guidance_scale": 2.0})
    with pytest.raises(UsageError, match="cannot be guided"):
        evaluate_checkpoint(evaluated_store, plain, plain, 2, settings, digits)
