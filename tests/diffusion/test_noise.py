"""Random numbers are a function of (seed, purpose, index) only."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from progdistill.diffusion.noise import generator, sample_noise, seed_for

ROWS = st.lists(st.integers(0, 2**40), max_size=6)


@settings(deadline=None, max_examples=50)
@given(rows=ROWS, seed=st.integers(-(2**70), 2**70), shape=st.sampled_from([(), (5,), (1, 4, 4), (3, 8, 8)]))
def test_a_row_depends_on_its_index_and_on_no_other_row(rows: list[int], seed: int, shape: tuple[int, ...]) -> None:
    together = sample_noise(seed, "test", rows, shape)
    assert together.shape == (len(rows), *shape)
    for row, index in zip(together, rows, strict=True):
        assert torch.equal(row, sample_noise(seed, "test", [index], shape)[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_hold_the_float32_values(dtype: torch.dtype) -> None:
    reference = sample_noise(1, "test", [0, 1], (3, 8, 8))
    assert torch.equal(sample_noise(1, "test", [0, 1], (3, 8, 8), dtype), reference.to(dtype))


def test_noise_does_not_depend_on_the_global_generator_nor_move_it() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = sample_noise(1, "test", range(3), (4,))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(sample_noise(1, "test", range(3), (4,)), first)


def test_noise_is_standard_gaussian_and_rows_are_uncorrelated() -> None:
    noise = sample_noise(3, "test", range(2000), (16,)).double()
    # 32,000 numbers: standard errors 0.006 of the mean, 0.008 of the variance.
    assert abs(noise.mean()) < 0.03
    assert abs(noise.var() - 1) < 0.04
    assert abs((noise[1:] * noise[:-1]).mean()) < 0.03


@settings(deadline=None)
@given(
    one=st.tuples(st.integers(0, 20), st.sampled_from(["a", "a, 1", '"'])),
    other=st.tuples(st.integers(0, 20), st.sampled_from(["a", "a, 1", '"'])),
    one_index=st.lists(st.integers(0, 20), max_size=3),
    other_index=st.lists(st.integers(0, 20), max_size=3),
)
def test_different_keys_have_different_seeds(
    one: tuple[int, str], other: tuple[int, str], one_index: list[int], other_index: list[int]
) -> None:
    same_key = (one, one_index) == (other, other_index)
    assert (seed_for(*one, *one_index) == seed_for(*other, *other_index)) is same_key


def test_seeds_and_noise_stay_what_they_were() -> None:
    """Checkpoints are named by what training drew: these numbers may not change with a version."""
    assert seed_for(0, "initial weights") == 2493003620539304464
    assert 0 <= seed_for(0, "initial weights") < 2**63
    drawn = sample_noise(0, "sample", [0, 7], (2,)).flatten().tolist()
    assert drawn == pytest.approx([-2.474247217, 0.363900185, 0.352126539, 0.373455614], abs=1e-6)


def test_a_generator_is_fresh_each_time() -> None:
    draws = [torch.rand(3, generator=generator(5, "test", 1)) for _ in range(2)]
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], torch.rand(3, generator=generator(5, "test", 2)))
