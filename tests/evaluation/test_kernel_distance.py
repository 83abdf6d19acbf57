"""The kernel distance against its definition and against clean-fid's function."""

import itertools

import pytest
import torch
from torch import Tensor

from progdistill.evaluation import metrics as module
from progdistill.evaluation.metrics import kernel_distance, subset_kernel_distance


def _features(count: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)) + shift


def _kernel(a: Tensor, b: Tensor) -> float:
    return float((a.double() @ b.double() / len(a) + 1) ** 3)


def test_it_is_the_sum_over_pairs_of_the_definition() -> None:
    first, second = _features(7, 0), _features(5, 1)
    within = [
        sum(_kernel(a, b) for a, b in itertools.permutations(x, 2)) / (len(x) * (len(x) - 1)) for x in (first, second)
    ]
    between = sum(_kernel(a, b) for a in first for b in second) / (len(first) * len(second))
    assert kernel_distance(first, second) == pytest.approx(sum(within) - 2 * between, rel=1e-12)


def test_it_equals_clean_fids_function_where_a_subset_is_all() -> None:
    from cleanfid.fid import kernel_distance as clean_fid_distance

    first, second = _features(50, 2), _features(50, 3, shift=0.5)
    expected = clean_fid_distance(first.double().numpy(), second.double().numpy(), num_subsets=1)
    assert kernel_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_equal_distributions_are_at_zero_on_average() -> None:
    distances = [kernel_distance(_features(200, seed), _features(200, seed + 100)) for seed in range(20)]
    assert abs(sum(distances) / len(distances)) < 0.02
    assert kernel_distance(_features(200, 0), _features(200, 1, shift=1.0)) > 1


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = _features(30, 4), _features(20, 5)
    whole = kernel_distance(first, second)
    monkeypatch.setattr(module, "_ROWS", 7)
    assert kernel_distance(first, second) == pytest.approx(whole, rel=1e-12)


def test_a_single_vector_has_no_distance() -> None:
    with pytest.raises(ValueError, match="2 vectors"):
        kernel_distance(_features(1, 0), _features(5, 1))


def test_over_subsets_it_is_the_same_in_expectation_and_the_same_every_time() -> None:
    samples, real = _features(300, 0, shift=0.5), _features(400, 1)
    whole, subsets = kernel_distance(samples, real), subset_kernel_distance(samples, real, size=100)
    assert subsets == pytest.approx(whole, rel=0.05) and subsets != whole
    assert subset_kernel_distance(samples, real, size=100) == subsets


def test_one_subset_of_all_is_the_whole() -> None:
    samples, real = _features(50, 0, shift=0.5), _features(50, 1)
    assert subset_kernel_distance(samples, real, subsets=1) == pytest.approx(kernel_distance(samples, real), rel=1e-12)
