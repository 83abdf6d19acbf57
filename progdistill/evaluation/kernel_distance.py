"""The kernel distance between sets of features: KID if they are Inception's (Bińkowski et al. 2018)."""

import torch
from jaxtyping import Float
from torch import Tensor

First = Float[Tensor, "m dimensions"]
Second = Float[Tensor, "n dimensions"]

_ROWS = 1024
"""Of a kernel matrix, computed at once: 10,000 vectors would else take 800 MB a matrix."""


def kernel_distance(first: First, second: Second) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy, kernel k(a, b) = (a·b/d + 1)³.

    Over all pairs of vectors, where others average over random subsets: equal on average, with less scatter.
    It can be slightly negative. Raises ValueError below two vectors in either set.
    """
    m, n = len(first), len(second)
    if min(m, n) < 2:
        raise ValueError(f"a kernel distance needs 2 vectors in each set, not {m} and {n}")
    within_first = (_kernel_sum(first, first) - _diagonal_sum(first)) / (m * (m - 1))
    within_second = (_kernel_sum(second, second) - _diagonal_sum(second)) / (n * (n - 1))
    return within_first + within_second - 2 * _kernel_sum(first, second) / (m * n)


def _kernel_sum(first: First, second: Second) -> float:
    other = second.double()
    total = 0.0
    for rows in torch.split(first, _ROWS):
        total += float((rows.double() @ other.T / first.shape[1] + 1).pow(3).sum())
    return total


def _diagonal_sum(features: First) -> float:
    return float((features.double().square().sum(dim=1) / features.shape[1] + 1).pow(3).sum())
