"""The published protocols of class score and kernel distance, chosen by name, against their definitions."""

import numpy as np
import pytest
import torch

from progdistill.data.dataset import DatasetInfo
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.metrics import precision_recall, subset_kernel_distance
from progdistill.evaluation.runner import MeasurementRunner
from progdistill.evaluation.sampling import generate
from progdistill.models.load import load_denoiser
from progdistill.models_base import content_id
from progdistill.registry.checkpoint import CheckpointManifest
from progdistill.store.base import Store

SETTINGS = EvaluationSettings(samples=57, batch_size=20, protocol="published")


def test_figures_are_those_of_the_published_definitions(
    evaluated_store: Store, student: CheckpointManifest, digits: DatasetInfo
) -> None:
    runner = MeasurementRunner(evaluated_store, SETTINGS, digits)
    spec = runner.plan(student, None, 2)[0].spec
    measured = runner.run(spec)
    denoiser = load_denoiser(evaluated_store, student, "cpu")
    counts = spec.class_counts
    drawn = generate(denoiser, spec.sampler, 2, indices=range(57), seed=spec.seed, batch_size=20, class_counts=counts)
    with torch.inference_mode():
        found = runner.extractor.extract(torch.cat(list(drawn)))
    assert found.probabilities is not None and runner.reference.features is not None
    p = found.probabilities.double().numpy()
    parts = [p[i * 57 // 10 : (i + 1) * 57 // 10] for i in range(10)]
    scores = [np.exp(np.mean(np.sum(q * (np.log(q) - np.log(q.mean(axis=0))), axis=1))) for q in parts]
    assert measured.inception_score == pytest.approx(float(np.mean(scores)), rel=1e-3)
    real = runner.reference.features
    assert measured.kernel_distance == pytest.approx(subset_kernel_distance(found.features, real), rel=1e-3)
    assert (measured.precision, measured.recall) == pytest.approx(precision_recall(found.features, real), abs=0.02)


def test_the_default_protocol_does_not_change_the_id_of_a_measurement(
    evaluated_store: Store, student: CheckpointManifest, digits: DatasetInfo
) -> None:
    """Measurements made before there was a choice are found."""
    runner = MeasurementRunner(evaluated_store, SETTINGS, digits)
    spec = runner.plan(student, None, 2)[0].spec
    whole = spec.model_copy(update={"protocol": "whole"})
    facts = whole.model_dump(mode="json")
    del facts["protocol"]
    assert whole.id == content_id(facts) and spec.id == content_id(spec)


def test_ten_splits_need_ten_samples() -> None:
    with pytest.raises(ValueError, match="protocol published needs 10 samples or more, not 9"):
        EvaluationSettings(samples=9, protocol="published")
