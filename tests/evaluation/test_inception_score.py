"""The Inception Score at its bounds, and against its definition on all samples at once."""

import numpy as np
import pytest
import torch

from progdistill.evaluation.metrics import add_sums, inception_score, score_sums


def test_samples_that_all_look_alike_score_one() -> None:
    assert inception_score(score_sums(torch.full((20, 10), 0.1))) == pytest.approx(1)


def test_certain_and_evenly_spread_classes_score_their_number() -> None:
    assert inception_score(score_sums(torch.eye(10).repeat(3, 1))) == pytest.approx(10)


def test_batches_add_up_to_the_definition() -> None:
    logits = torch.randn(90, 7, generator=torch.Generator().manual_seed(0)).double()
    p = logits.softmax(dim=1).numpy()
    expected = np.exp(np.mean(np.sum(p * (np.log(p) - np.log(p.mean(axis=0))), axis=1)))
    sums = add_sums(score_sums(logits[:31].softmax(dim=1)), score_sums(logits[31:].softmax(dim=1)))
    assert inception_score(sums) == pytest.approx(float(expected), rel=1e-12)
