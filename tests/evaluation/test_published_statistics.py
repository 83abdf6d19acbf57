"""Published statistics replace those of the dataset, wherever the job runs."""

from pathlib import Path

import numpy as np
import pytest

from progdistill.data.dataset import DatasetInfo
from progdistill.errors import UsageError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.evaluate import evaluate_checkpoint
from progdistill.evaluation.published_statistics import pinned_statistics
from progdistill.evaluation.runner import MeasurementRunner
from progdistill.registry.checkpoint import CheckpointManifest
from progdistill.registry.evaluations import Measurement
from progdistill.store.base import Store

SETTINGS = EvaluationSettings(samples=40, batch_size=20, shown_samples=0)


def named(file: Path) -> EvaluationSettings:
    return SETTINGS.model_copy(update={"reference_statistics": str(file)})


def measured(
    store: Store, student: CheckpointManifest, settings: EvaluationSettings, digits: DatasetInfo
) -> Measurement:
    found = evaluate_checkpoint(store, student, None, 2, settings, digits).distilled
    assert found is not None
    return found


@pytest.fixture
def statistics(evaluated_store: Store, digits: DatasetInfo, tmp_path: Path) -> Path:
    """Those of the dataset itself, as somebody else would publish them."""
    real = MeasurementRunner(evaluated_store, SETTINGS, digits).reference
    np.savez(tmp_path / "published.npz", mu=real.mean.numpy(), sigma=real.covariance.numpy())
    return tmp_path / "published.npz"


def test_statistics_of_the_same_images_give_the_same_distance(
    evaluated_store: Store, student: CheckpointManifest, digits: DatasetInfo, statistics: Path
) -> None:
    own = measured(evaluated_store, student, SETTINGS, digits)
    found = measured(evaluated_store, student, named(statistics), digits)
    assert found.spec.reference_fingerprint.startswith("file:")
    assert found.distance == pytest.approx(own.distance, rel=1e-9)
    assert own.kernel_distance is not None and found.kernel_distance is None


def test_a_job_that_runs_elsewhere_needs_no_file(
    evaluated_store: Store, student: CheckpointManifest, digits: DatasetInfo, statistics: Path
) -> None:
    pinned = pinned_statistics(evaluated_store, named(statistics))
    statistics.unlink()
    assert measured(evaluated_store, student, pinned, digits).distance > 0


def test_a_file_in_a_bucket_or_folder_is_named_by_its_address(evaluated_store: Store, statistics: Path) -> None:
    by_address = SETTINGS.model_copy(update={"reference_statistics": f"file://{statistics}"})
    digests = [
        pinned_statistics(evaluated_store, settings).reference_statistics_sha256
        for settings in (by_address, named(statistics))
    ]
    assert digests[0] == digests[1] is not None


def test_statistics_of_other_features_are_refused_before_anything_is_drawn(
    evaluated_store: Store, student: CheckpointManifest, digits: DatasetInfo, tmp_path: Path
) -> None:
    np.savez(tmp_path / "inception.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(UsageError, match=r"2048 features, but digits_classifier has 64"):
        measured(evaluated_store, student, named(tmp_path / "inception.npz"), digits)
