"""Samplers: each maps z₁ ~ N(0, I) to x in N steps from t = 1 to t = 0, all with one signature."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from progdistill.diffusion.names import SamplerName
from progdistill.diffusion.prediction import eps_from_velocity, velocity_from_x_eps, x_from_velocity
from progdistill.diffusion.schedule import alpha_sigma
from progdistill.diffusion.target import Velocity

Images = Float[Tensor, "batch ..."]
Noise = Callable[[int], Tensor]
"""Standard normal noise of the shape of z for step 0, 1, …"""
Sampler = Callable[..., Tensor]


def _times(z: Images, step: int, steps: int) -> Tensor:
    return z.new_full((len(z),), 1 - step / steps)


def _clipped(v: Images, z: Images, t: Tensor) -> Images:
    """The velocity of x̂ clipped to [−1, 1], with ε̂ recomputed from the clipped x̂ so that both fit z."""
    alpha, sigma = alpha_sigma(t[:1])
    if float(sigma) == 0:
        return v
    x = x_from_velocity(v, z, t).clamp(-1, 1)
    return velocity_from_x_eps(x, (z - alpha * x) / sigma, t)


def _velocity(velocity: Velocity, z: Images, t: Tensor, clip: bool) -> Images:
    v = velocity(z, t)
    return _clipped(v, z, t) if clip else v


def ddim(
    velocity: Velocity,
    z: Images,
    steps: int,
    *,
    noise: Noise | None = None,
    clip: bool = False,
    gamma: float = 0.0,
) -> Images:
    """DDIM (eq. 8) as the rotation z_{φ−δ} = cos δ·z_φ − sin δ·v̂ (eq. 38). `noise` and `gamma` are unused."""
    delta = math.pi / (2 * steps)
    for step in range(steps):
        v = _velocity(velocity, z, _times(z, step, steps), clip)
        z = math.cos(delta) * z - math.sin(delta) * v
    return z


def ancestral(
    velocity: Velocity,
    z: Images,
    steps: int,
    *,
    noise: Noise | None = None,
    clip: bool = False,
    gamma: float = 0.0,
) -> Images:
    """The ancestral sampler (eq. 4–5); its variance is σ²_{s|t}^(1−γ)·σ²_{t|s}^γ, γ ∈ [0, 1].

    The mean is written through x̂ and ε̂, e^(λ_t−λ_s)·(α_s/α_t)·z + (1 − e^(λ_t−λ_s))·α_s·x̂
    = α_s·x̂ + (α_t·σ_s²)/(α_s·σ_t)·ε̂, which is finite at t = 1. The last step adds no noise: it ends at x̂.
    """
    if noise is None:
        raise ValueError("ancestral sampling draws noise at every step: pass noise=")
    for step in range(steps):
        t = _times(z, step, steps)
        v = _velocity(velocity, z, t, clip)
        x, eps = x_from_velocity(v, z, t), eps_from_velocity(v, z, t)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (
            alpha_sigma(t[:1]),
            alpha_sigma(_times(z, step + 1, steps)[:1]),
        )
        ratio = (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2  # e^(λ_t − λ_s)
        deviation = sigma_s ** (1 - gamma) * sigma_t**gamma * torch.sqrt(1 - ratio)
        z = alpha_s * x + alpha_t * sigma_s**2 / (alpha_s * sigma_t) * eps
        if step < steps - 1:
            z = z + deviation * noise(step)
    return z


SAMPLERS: dict[SamplerName, Sampler] = {SamplerName.DDIM: ddim, SamplerName.ANCESTRAL: ancestral}
