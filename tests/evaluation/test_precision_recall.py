"""Precision and recall in obvious cases, and against scikit-learn's nearest neighbors."""

import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from progdistill.evaluation.metrics import precision_recall


def _cloud(count: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))


def test_a_copy_is_all_precise_and_all_recalled() -> None:
    real = _cloud(50, 0)
    assert precision_recall(real.clone(), real) == (1.0, 1.0)


def test_far_away_samples_are_neither() -> None:
    assert precision_recall(_cloud(50, 0) + 1000, _cloud(50, 1)) == (0.0, 0.0)


def test_samples_of_one_mode_of_two_are_precise_but_recall_half() -> None:
    modes = torch.cat((_cloud(100, 0), _cloud(100, 1) + 1000))
    precision, recall = precision_recall(_cloud(100, 2), modes)
    assert precision > 0.8
    assert 0.3 < recall < 0.5


@pytest.mark.parametrize("neighbors", [1, 3])
def test_it_equals_a_search_by_scikit_learn(neighbors: int) -> None:
    samples, real = _cloud(80, 3, scale=1.3), _cloud(120, 4)

    def covered(queries: Tensor, centers: Tensor) -> float:
        tree = NearestNeighbors(n_neighbors=neighbors + 1).fit(centers.double().numpy())
        radii = torch.from_numpy(tree.kneighbors(centers.double().numpy())[0][:, -1])
        distances = torch.cdist(queries.double(), centers.double())
        return float((distances <= radii).any(dim=1).double().mean())

    expected = (covered(samples, real), covered(real, samples))
    assert precision_recall(samples, real, neighbors) == pytest.approx(expected, abs=1e-12)
