"""The cosine schedule α_t = cos(πt/2), σ_t = sin(πt/2) (section 4), in a form exact at both ends."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

Times = Float[Tensor, "*batch"]


def alpha_sigma(t: Times) -> tuple[Times, Times]:
    """Signal and noise scales (α_t, σ_t) at times t ∈ [0, 1], in t's dtype.

    α is written as sin(π(1 − t)/2), so that it is exactly 0 at t = 1 in any precision, as σ is at t = 0.
    """
    return torch.sin((1 - t) * (math.pi / 2)), torch.sin(t * (math.pi / 2))


def log_snr(t: Times) -> Times:
    """λ_t = log(α_t² / σ_t²): +∞ at t = 0, −∞ at t = 1."""
    alpha, sigma = alpha_sigma(t)
    return 2 * (torch.log(alpha) - torch.log(sigma))


def time_of_log_snr(log_snr: Times) -> Times:
    """The inverse of `log_snr`: t = (2/π)·arctan(e^(−λ/2))."""
    return torch.atan(torch.exp(-log_snr / 2)) * (2 / math.pi)


def broadcast(coefficient: Float[Tensor, " batch"], like: Float[Tensor, "batch ..."]) -> Tensor:
    """Give a per-sample coefficient trailing axes of size 1, so that it multiplies `like`."""
    return coefficient.reshape(-1, *(1,) * (like.ndim - 1))
