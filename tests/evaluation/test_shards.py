"""Long measurements in shards: resumed where they were, shared out to ranks, always the same figures."""

from collections.abc import Callable
from zlib import crc32

import pytest

from progdistill.artifacts.checkpoint import CheckpointManifest
from progdistill.artifacts.store import Store
from progdistill.data.dataset import DatasetInfo
from progdistill.evaluation import shard
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.evaluate import draw_share, evaluate_checkpoint
from progdistill.evaluation.measurement import EvaluationRecord, Measurement

FIGURES = {"distance", "kernel_distance", "precision", "recall", "inception_score", "shown"}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "SHARD_SAMPLES", 10)


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> EvaluationSettings:
    """A seed of its own for each test, so that no test finds another's answers."""
    return EvaluationSettings(samples=25, batch_size=5, seed=crc32(request.node.name.encode()))


def _figures(record: EvaluationRecord) -> list[dict[str, object]]:
    return [m.model_dump(include=FIGURES) for m in record.measurements]


def _shards_in(store: Store) -> list[str]:
    return [item.key.rpartition("/")[2] for item in store.list("evaluation_shards/")]


def test_ranks_that_share_the_work_get_the_figures_of_one(
    evaluated_store: Store, student: CheckpointManifest, digits: DatasetInfo, settings: EvaluationSettings
) -> None:
    arguments = (evaluated_store, student, None, 2, settings, digits)
    for rank in range(2):
        draw_share(*arguments, rank=rank, ranks=2)
    assert sorted(_shards_in(evaluated_store)) == ["0-10.json", "10-20.json", "20-25.json"]
    shared = evaluate_checkpoint(*arguments)
    _forget(evaluated_store, shared)
    assert _figures(evaluate_checkpoint(*arguments)) == _figures(shared)


def test_finished_shards_are_not_drawn_again(
    evaluated_store: Store,
    student: CheckpointManifest,
    digits: DatasetInfo,
    settings: EvaluationSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw_share(evaluated_store, student, None, 2, settings, digits, rank=0, ranks=1)
    drawn = _count_calls(monkeypatch)
    record = evaluate_checkpoint(evaluated_store, student, None, 2, settings, digits)
    assert drawn == []
    assert record.distilled is not None


def test_nothing_is_left_of_the_shards_of_a_whole_measurement(
    evaluated_store: Store, student: CheckpointManifest, digits: DatasetInfo, settings: EvaluationSettings
) -> None:
    evaluate_checkpoint(evaluated_store, student, None, 2, settings, digits)
    assert _shards_in(evaluated_store) == []


def _forget(store: Store, record: EvaluationRecord) -> None:
    for measurement in record.measurements:
        store.delete(measurement.question.key)


def _count_calls(monkeypatch: pytest.MonkeyPatch) -> list[range]:
    drawn: list[range] = []
    real: Callable[..., object] = shard.measure_shard

    def counted(question: Measurement, indices: range, *rest: object, **options: object) -> object:
        drawn.append(indices)
        return real(question, indices, *rest, **options)

    monkeypatch.setattr("progdistill.evaluation.measure.measure_shard", counted)
    return drawn
