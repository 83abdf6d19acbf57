"""The variance-preserving cosine schedule z_t = α_t·x + σ_t·ε (section 4)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

Times = Float[Tensor, "*batch"]
Images = Float[Tensor, "batch *shape"]

SMALLEST_COEFFICIENT = math.exp(-10)
"""Lower bound of α and σ in divisions: their value at a log-SNR of −20 and 20, where the published code ends
its schedule."""


def alpha_sigma(t: Times) -> tuple[Times, Times]:
    """α_t = cos(πt/2) and σ_t = sin(πt/2) for t in [0, 1], in the dtype of t (float32 or float64).

    The cosine is computed as a sine of 1 − t: α is then exactly 0 at t = 1 and accurate close to it.
    """
    return torch.sin((1 - t) * (math.pi / 2)), torch.sin(t * (math.pi / 2))


def alpha_sigma_at(t: float) -> tuple[float, float]:
    """α_t and σ_t of one time in double precision."""
    return math.sin((1 - t) * math.pi / 2), math.sin(t * math.pi / 2)


def log_snr(t: Times) -> Times:
    """λ_t = log(α_t²/σ_t²), falling from +∞ at t = 0 to −∞ at t = 1."""
    alpha, sigma = alpha_sigma(t)
    return 2 * (alpha.log() - sigma.log())


def time_of_log_snr(log_snr: Times) -> Times:
    """t = 2/π·arctan(e^(−λ/2)), the inverse of `log_snr`."""
    return torch.atan(torch.exp(-log_snr / 2)) * (2 / math.pi)


def broadcast(coefficient: Float[Tensor, " batch"], like: Images) -> Float[Tensor, " batch *ones"]:
    """One number per sample, reshaped to [batch, 1, 1, …] to multiply `like`."""
    return coefficient.reshape(-1, *[1] * (like.ndim - 1))


def coefficients(
    t: Float[Tensor, " batch"], like: Images
) -> tuple[Float[Tensor, " batch *ones"], Float[Tensor, " batch *ones"]]:
    """α_t and σ_t, reshaped to multiply `like`."""
    alpha, sigma = alpha_sigma(t)
    return broadcast(alpha, like), broadcast(sigma, like)


def turned(t: Float[Tensor, " batch"], s: Float[Tensor, " batch"], like: Images) -> Float[Tensor, " batch *ones"]:
    """The angle between two times, reshaped to multiply `like`, in its dtype."""
    return broadcast((t - s) * (math.pi / 2), like).to(like.dtype)


def diffuse(x: Images, eps: Images, t: Float[Tensor, " batch"]) -> Images:
    """z_t = α_t·x + σ_t·ε (eq. 1), with images and noise of one shape and t in [0, 1]."""
    alpha, sigma = coefficients(t, x)
    return alpha * x + sigma * eps
