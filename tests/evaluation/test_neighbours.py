"""The nearest training images: a copy finds its original; a stream finds what a whole search does."""

import numpy as np
import pytest

from progdistill.artifacts.checkpoint import CheckpointManifest
from progdistill.artifacts.store import Store
from progdistill.data.dataset import DatasetInfo
from progdistill.data.reading import read_split
from progdistill.evaluation import neighbours
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.evaluate import evaluate_checkpoint
from progdistill.evaluation.neighbours import nearest_images


def test_a_memorised_image_is_its_own_nearest(digits: DatasetInfo) -> None:
    training = read_split(digits, "train")[0]
    found = nearest_images(training[[5, 900]], digits, "train", 2)
    np.testing.assert_array_equal(found[:, 0], training[[5, 900]])


def test_a_stream_finds_what_a_whole_search_finds(
    digits: DatasetInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "READ_IMAGES", 100)
    drawn = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    training = read_split(digits, "train")[0]
    gaps = drawn[:, None].astype(np.float64) - training[None]
    order = np.argsort((gaps**2).sum(axis=(2, 3, 4)), axis=1, kind="stable")[:, :3]
    np.testing.assert_array_equal(nearest_images(drawn, digits, "train", 3), training[order])


def test_they_stand_in_the_record_of_the_chosen_steps(
    evaluated_store: Store, student: CheckpointManifest, digits: DatasetInfo
) -> None:
    settings = EvaluationSettings(samples=20, batch_size=10, neighbours_at_steps=(2,))
    record = evaluate_checkpoint(evaluated_store, student, None, 2, settings, digits)
    assert record.neighbours is not None
    assert (record.neighbours.samples, record.neighbours.nearest) == (8, 3)
    without = settings.model_copy(update={"neighbours_at_steps": ()})
    assert evaluate_checkpoint(evaluated_store, student, None, 2, without, digits).neighbours is None
