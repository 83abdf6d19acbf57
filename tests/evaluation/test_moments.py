"""Streaming moments against NumPy's on all vectors at once."""

from functools import reduce

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from progdistill.evaluation.metrics import BLOCK, Moments, MomentStream, merge, moments_of


def _stream(features: Tensor, batch: int) -> Moments:
    return reduce(merge, map(moments_of, features.split(batch)))


@settings(deadline=None, max_examples=30)
@given(batch=st.integers(1, 70), seed=st.integers(0, 1000))
def test_a_stream_gives_the_moments_of_the_whole(batch: int, seed: int) -> None:
    features = torch.randn(60, 5, generator=torch.Generator().manual_seed(seed))
    moments = _stream(features, batch)
    whole = features.double().numpy()
    np.testing.assert_allclose(moments.mean, whole.mean(axis=0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(moments.covariance, np.cov(whole, rowvar=False), rtol=1e-11, atol=1e-13)


def test_a_stream_of_many_blocks_gives_the_moments_of_the_whole() -> None:
    features = torch.randn(3 * BLOCK + 17, 6, generator=torch.Generator().manual_seed(4))
    stream = MomentStream()
    for part in features.split(100):
        stream.add(part)
        assert stream.moments().vectors <= len(features)  # looking changes nothing
    np.testing.assert_allclose(stream.moments().mean, features.double().mean(0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(
        stream.moments().covariance, np.cov(features.double().numpy(), rowvar=False), rtol=1e-11, atol=1e-13
    )


def test_shards_of_any_sizes_merge_to_the_same_moments() -> None:
    features = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    left = merge(moments_of(features[:3]), merge(moments_of(features[3:50]), moments_of(features[50:])))
    right = merge(merge(moments_of(features[:80]), moments_of(features[80:81])), moments_of(features[81:]))
    assert left.vectors == right.vectors == 100
    torch.testing.assert_close(left.scatter, right.scatter, rtol=1e-12, atol=1e-12)


def test_a_large_mean_does_not_eat_the_digits_of_the_covariance() -> None:
    features = torch.randn(1000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    shifted = _stream(features + 1e7, 64)
    torch.testing.assert_close(shifted.covariance, _stream(features, 64).covariance, rtol=1e-7, atol=1e-9)
