"""The digits classifier as an evaluator: accurate, trained once, never confused with another."""

import pytest
import torch

from progdistill.data.dataset import DatasetInfo
from progdistill.errors import LostInvariantError, UsageError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.runner import MeasurementRunner
from progdistill.features.registry import find_or_publish_evaluator, open_evaluator
from progdistill.store.base import Store
from progdistill.store.layout import blob_key
from progdistill.store.open import open_store


def test_the_classifier_reads_unseen_digits(evaluated_store: Store, digits: DatasetInfo) -> None:
    manifest = MeasurementRunner(evaluated_store, EvaluationSettings(), digits).prepare()
    assert manifest.test_accuracy is not None
    assert manifest.test_accuracy >= 0.97


def test_it_is_trained_once_and_found_afterward(evaluated_store: Store, digits: DatasetInfo) -> None:
    first = MeasurementRunner(evaluated_store, EvaluationSettings(), digits).prepare()
    keys = [item.key for item in evaluated_store.list("")]
    again = MeasurementRunner(evaluated_store, EvaluationSettings(samples=5), digits).prepare()
    assert again == first
    assert [item.key for item in evaluated_store.list("")] == keys


def test_it_gives_features_and_probabilities(evaluated_store: Store, digits: DatasetInfo) -> None:
    manifest = find_or_publish_evaluator(evaluated_store, EvaluationSettings(), digits)
    seen = open_evaluator(evaluated_store, manifest).extract(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
    assert seen.features.shape == (3, 64)
    assert seen.probabilities is not None
    torch.testing.assert_close(seen.probabilities.sum(dim=1), torch.ones(3))


def test_damaged_weights_are_refused(tmp_path_factory: pytest.TempPathFactory, digits: DatasetInfo) -> None:
    root = tmp_path_factory.mktemp("damaged")
    store = open_store(str(root))
    manifest = find_or_publish_evaluator(store, EvaluationSettings(), digits)
    blob = root / blob_key(manifest.identity.weights.sha256)
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"\0")
    with pytest.raises(LostInvariantError):
        open_evaluator(store, manifest)


def test_images_it_cannot_read_are_refused_by_name(evaluated_store: Store, digits: DatasetInfo) -> None:
    color = digits.model_copy(update={"name": "cifar10", "channels": 3, "image_size": 32})
    with pytest.raises(UsageError, match="cifar10"):
        find_or_publish_evaluator(evaluated_store, EvaluationSettings(), color)
