"""The nearest training images: a copy finds its original; a streamed search finds what a full search finds."""

import numpy as np
import pytest
from numpy.typing import NDArray

from progdistill.data.dataset import DatasetInfo
from progdistill.data.reading import read_split
from progdistill.evaluation import nearest as neighbors
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.evaluate import evaluate_checkpoint
from progdistill.evaluation.nearest import nearest_images
from progdistill.images import Pixels
from progdistill.registry.checkpoint import CheckpointManifest
from progdistill.store.base import Store


def test_a_memorized_image_is_its_own_nearest(digits: DatasetInfo) -> None:
    training = read_split(digits, "train")[0]
    found = nearest_images(training[[5, 900]], digits, "train", 2)
    np.testing.assert_array_equal(found[:, 0], training[[5, 900]])


def test_a_stream_finds_what_a_whole_search_finds(digits: DatasetInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "READ_IMAGES", 100)
    drawn = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    training = read_split(digits, "train")[0]
    order = np.argsort(_squared_distances(drawn, training), axis=1, kind="stable")[:, :3]
    np.testing.assert_array_equal(nearest_images(drawn, digits, "train", 3), training[order])


def test_a_memorized_image_is_found_mirrored_where_training_may_have_mirrored_it(digits: DatasetInfo) -> None:
    training = read_split(digits, "train")[0]
    copies = np.stack((training[5, :, ::-1], training[900]))
    np.testing.assert_array_equal(nearest_images(copies, _mirrorable(digits), "train", 2)[:, 0], copies)
    assert (nearest_images(copies, digits, "train", 1)[0, 0] != copies[0]).any()


def test_each_image_counts_once_in_its_nearer_orientation(digits: DatasetInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "READ_IMAGES", 100)
    drawn = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    training = read_split(digits, "train")[0]
    both = np.stack((training, training[:, :, ::-1]))
    distances = np.stack([_squared_distances(drawn, images) for images in both])
    order = np.argsort(distances.min(axis=0), axis=1, kind="stable")[:, :3]
    turned = np.take_along_axis(distances.argmin(axis=0), order, axis=1)
    assert 0 < turned.sum() < turned.size
    np.testing.assert_array_equal(nearest_images(drawn, _mirrorable(digits), "train", 3), both[turned, order])


def test_they_stand_in_the_record_of_the_chosen_steps(
    evaluated_store: Store, student: CheckpointManifest, digits: DatasetInfo
) -> None:
    settings = EvaluationSettings(samples=20, batch_size=10, neighbors_at_steps=(2,))
    record = evaluate_checkpoint(evaluated_store, student, None, 2, settings, digits)
    assert record.neighbors is not None
    assert (record.neighbors.samples, record.neighbors.nearest) == (8, 3)
    without = settings.model_copy(update={"neighbors_at_steps": ()})
    assert evaluate_checkpoint(evaluated_store, student, None, 2, without, digits).neighbors is None


def test_what_was_compared_unmirrored_is_compared_again_where_mirroring_is_safe(
    evaluated_store: Store, student: CheckpointManifest, digits: DatasetInfo
) -> None:
    """Data prepared again without --no-flip has the fingerprint it had."""
    settings = EvaluationSettings(samples=20, batch_size=10, neighbors_at_steps=(2,))
    found = [
        evaluate_checkpoint(evaluated_store, student, None, 2, settings, info).neighbors
        for info in (digits, _mirrorable(digits), digits)
    ]
    assert [each is not None and each.mirrored for each in found] == [False, True, False]
    assert found[0] == found[2]
    assert found[0] is not None and found[1] is not None
    assert found[0].file != found[1].file


def _mirrorable(info: DatasetInfo) -> DatasetInfo:
    return info.model_copy(update={"horizontal_flip_safe": True})


def _squared_distances(drawn: Pixels, training: Pixels) -> NDArray[np.float64]:
    gaps = drawn[:, None].astype(np.float64) - training[None]
    squares: NDArray[np.float64] = (gaps**2).sum(axis=(2, 3, 4))
    return squares
