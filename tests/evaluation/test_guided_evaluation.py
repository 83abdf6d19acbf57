"""A guided student is measured with a weight that it has learned."""

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
    ("learned", "asked", "weight"),
    [((2.0, 4.0), None, 2.0), ((0.0, 4.0), None, None), ((0.0, 4.0), 3.0, 3.0), ((2.0, 4.0), 0.0, None)],
)
def test_the_weight_is_the_lowest_learned_or_the_one_asked_for(
    learned: tuple[float, float],
    asked: float | None,
    weight: float | None,
    evaluated_store: Store,
    digits: DatasetInfo,
    tmp_path: Path,
) -> None:
    """The undistilled model is guided alike where it can be."""
    teacher = publish(evaluated_store, tmp_path, digits, seed=20, label_dropout=True)
    plain = publish(evaluated_store, tmp_path, digits, seed=21)
    student = publish(
        evaluated_store, tmp_path, digits, seed=22, parent=teacher.id, sampling_steps=2, guidance=learned
    )
    settings = SETTINGS.model_copy(update={"guidance": asked})
    for baseline, guided_too in ((teacher, True), (plain, False)):
        record = evaluate_checkpoint(evaluated_store, student, baseline, 2, settings, digits)
        own, other = record.distilled, record.baseline_ddim
        assert own is not None and other is not None
        assert own.spec.guidance_scale == weight
        assert other.spec.guidance_scale == (weight if guided_too else None)
        assert stage_entry(evaluated_store, student, record).guidance_scale == weight


def test_weights_draw_different_samples(evaluated_store: Store, digits: DatasetInfo, tmp_path: Path) -> None:
    student = publish(
        evaluated_store, tmp_path, digits, seed=23, parent="b" * 64, sampling_steps=2, guidance=(0.0, 4.0)
    )
    distances = set()
    for weight in (0.0, 1.0, 4.0):
        settings = SETTINGS.model_copy(update={"guidance": weight})
        record = evaluate_checkpoint(evaluated_store, student, None, 2, settings, digits)
        assert record.distilled is not None
        distances.add(record.distilled.distance)
    assert len(distances) == 3


def test_a_model_that_cannot_be_guided_is_not(
    evaluated_store: Store, digits: DatasetInfo, tmp_path: Path
) -> None:
    plain = publish(evaluated_store, tmp_path, digits, seed=21)
    settings = SETTINGS.model_copy(update={"guidance": 2.0})
    with pytest.raises(UsageError, match="cannot be guided"):
        evaluate_checkpoint(evaluated_store, plain, plain, 2, settings, digits)
