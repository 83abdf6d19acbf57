"""The cosine schedule against float64, and at its ends."""

import math

import pytest
import torch

from progdistill.diffusion.schedule import alpha_sigma, broadcast, diffuse, log_snr, time_of_log_snr

DTYPES = [torch.float32, torch.float64]
TIMES = torch.linspace(0, 1, 8193, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
def test_the_ends_are_exact_in_every_precision(dtype: torch.dtype) -> None:
    alpha, sigma = alpha_sigma(torch.tensor([0.0, 1.0], dtype=dtype))
    assert alpha.tolist() == [1, 0]
    assert sigma.tolist() == [0, 1]


def test_alpha_and_sigma_keep_their_relative_precision_up_to_the_ends() -> None:
    alpha, sigma = (c.double() for c in alpha_sigma(TIMES.float()))
    # cos(πt/2) near t = 1, from the angle left to π/2: t = i/8192 is exact in float32.
    assert ((alpha / torch.sin((1 - TIMES) * math.pi / 2))[:-1] - 1).abs().max() < 3e-7
    assert ((sigma / torch.sin(TIMES * math.pi / 2))[1:] - 1).abs().max() < 3e-7


def test_the_process_preserves_variance() -> None:
    alpha, sigma = alpha_sigma(TIMES)
    assert (alpha**2 + sigma**2 - 1).abs().max() < 1e-15


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_snr_falls_from_infinity_to_minus_infinity_and_inverts(dtype: torch.dtype) -> None:
    times = TIMES.to(dtype)
    values = log_snr(times)
    assert values[0] == math.inf
    assert values[-1] == -math.inf
    assert (values.diff() < 0).all()
    assert (time_of_log_snr(values) - times).abs().max() < 4 * torch.finfo(dtype).eps


def test_one_number_a_sample_is_shaped_to_multiply_images() -> None:
    assert broadcast(torch.ones(5), torch.ones(5, 3, 8, 8)).shape == (5, 1, 1, 1)
    assert broadcast(torch.ones(5), torch.ones(5)).shape == (5,)


def test_diffusing_gives_the_marginal_of_equation_1() -> None:
    source = torch.Generator().manual_seed(0)
    t = torch.full((200_000,), 0.3, dtype=torch.float64)
    x = torch.full_like(t, 0.7)
    z = diffuse(x, torch.randn(len(t), generator=source, dtype=torch.float64), t)
    assert z.mean() == pytest.approx(math.cos(0.15 * math.pi) * 0.7, abs=5e-3)
    assert z.std() == pytest.approx(math.sin(0.15 * math.pi), abs=5e-3)
