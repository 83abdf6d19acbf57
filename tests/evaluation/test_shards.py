"""Long measurements in shards: resumed, distributed over ranks, and always with the same results."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from zlib import crc32

import pytest

from progdistill.data.dataset import DatasetInfo
from progdistill.evaluation import generated
from progdistill.evaluation import shards as shard
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.evaluate import RoundRobin, evaluate_checkpoint, sample_distributed
from progdistill.evaluation.measurement import EvaluationRecord
from progdistill.registry.checkpoint import CheckpointManifest
from progdistill.registry.evaluations import MeasurementSpec
from progdistill.store.base import Store

FIGURES = {"distance", "kernel_distance", "precision", "recall", "inception_score", "shown"}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "SHARD_SAMPLES", 10)


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> EvaluationSettings:
    """A seed of its own for each test, so that no test finds the measurements of another."""
    return EvaluationSettings(samples=25, batch_size=5, seed=crc32(request.node.name.encode()))


def _figures(record: EvaluationRecord) -> list[dict[str, object]]:
    return [m.model_dump(include=FIGURES) for m in record.measurements]


def _shards_in(store: Store) -> list[str]:
    names = [item.key.rpartition("/")[2] for item in store.list("evaluation_shards/")]
    return [name for name in names if not name.startswith("images-")]


def _draw_on_ranks(world_size: int, *arguments: Any) -> None:
    """Each rank in a thread, so that they truly wait for one another."""
    barrier = threading.Barrier(world_size, timeout=120)
    with ThreadPoolExecutor(world_size) as pool:
        drawing = [
            pool.submit(sample_distributed, *arguments, rank=rank, world_size=world_size, barrier=barrier.wait)
            for rank in range(world_size)
        ]
        for future in drawing:
            future.result()


def test_ranks_that_share_the_work_get_the_figures_of_one(
    evaluated_store: Store, student: CheckpointManifest, digits: DatasetInfo, settings: EvaluationSettings
) -> None:
    arguments = (evaluated_store, student, None, 2, settings, digits)
    _draw_on_ranks(2, *arguments)
    assert sorted(_shards_in(evaluated_store)) == ["0-10.json", "10-20.json", "20-25.json"]
    shared = evaluate_checkpoint(*arguments)
    _forget(evaluated_store, shared)
    assert _figures(evaluate_checkpoint(*arguments)) == _figures(shared)


def test_ranks_share_the_images_that_are_compared_with_the_teachers(
    evaluated_store: Store,
    student: CheckpointManifest,
    base: CheckpointManifest,
    digits: DatasetInfo,
    settings: EvaluationSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of three models 40 images each, in shards of 16."""
    chosen = settings.model_copy(update={"teacher_samples": 40, "teacher_steps": 4})
    drawn = list[range]()
    original = generated.generate

    def generate(*arguments: Any, indices: range, **options: Any) -> Any:
        drawn.append(indices)
        return original(*arguments, indices=indices, **options)

    monkeypatch.setattr(generated, "generate", generate)
    _draw_on_ranks(2, evaluated_store, student, base, 2, chosen, digits)
    assert sorted(map(len, drawn)) == [8] * 3 + [16] * 6
    shared = evaluate_checkpoint(evaluated_store, student, base, 2, chosen, digits).to_teacher
    assert len(drawn) == 9 and shared is not None
    for item in list(evaluated_store.list("evaluation_shards/")):
        evaluated_store.delete(item.key)
    alone = evaluate_checkpoint(evaluated_store, student, base, 2, chosen, digits).to_teacher
    assert alone is not None and alone.distance == shared.distance and len(drawn) == 18


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_all_that_is_planned_is_sampled_before_it_is_added_up(
    world_size: int,
    evaluated_store: Store,
    student: CheckpointManifest,
    base: CheckpointManifest,
    digits: DatasetInfo,
    settings: EvaluationSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With γ tuned for both models, and no shard drawn twice."""
    changes = {"tuned_gammas": 3, "tuning_seed": settings.seed + 1, "stochastic_students": True}
    chosen = settings.model_copy(update=changes)
    drawn = _count_calls(monkeypatch)
    _draw_on_ranks(world_size, evaluated_store, student, base, 2, chosen, digits)
    assert len(drawn) == 3 * (4 + 2 * 3)
    record = evaluate_checkpoint(evaluated_store, student, base, 2, chosen, digits)
    assert len(drawn) == 3 * (4 + 2 * 3)
    assert len(record.measurements) == 4


def test_shards_of_many_measurements_are_assigned_evenly() -> None:
    shards = [range(0, 10), range(10, 20), range(20, 25)]
    for world_size in (1, 2, 3, 4, 8):
        ranks = [RoundRobin(rank, world_size) for rank in range(world_size)]
        shares = [[rank.assigned(shards) for _ in range(5)] for rank in ranks]
        for place in range(5):
            assigned = [indices for share in shares for indices in share[place]]
            assert sorted(assigned, key=lambda indices: indices.start) == shards
        sizes = [sum(map(len, share)) for share in shares]
        assert max(sizes) - min(sizes) <= 1


def test_finished_shards_are_not_drawn_again(
    evaluated_store: Store,
    student: CheckpointManifest,
    digits: DatasetInfo,
    settings: EvaluationSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _draw_on_ranks(1, evaluated_store, student, None, 2, settings, digits)
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
        store.delete(measurement.spec.key)


def _count_calls(monkeypatch: pytest.MonkeyPatch) -> list[range]:
    drawn: list[range] = []
    real: Callable[..., object] = shard.measure_shard

    def counted(spec: MeasurementSpec, indices: range, *rest: object, **options: object) -> object:
        drawn.append(indices)
        return real(spec, indices, *rest, **options)

    monkeypatch.setattr("progdistill.evaluation.runner.measure_shard", counted)
    return drawn
