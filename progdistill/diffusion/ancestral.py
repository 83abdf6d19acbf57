"""Ancestral sampling, the stochastic sampler of the paper."""

import math

from progdistill.diffusion.sampler import StepNoise
from progdistill.diffusion.schedule import Images
from progdistill.diffusion.transition import forward_variance, posterior_mean, posterior_variance
from progdistill.diffusion.velocity import Velocity, ask_x, clipped
from progdistill.errors import UsageError


def ancestral(
    velocity: Velocity,
    z: Images,
    steps: int,
    *,
    noise: StepNoise | None = None,
    clip: bool = False,
    gamma: float = 0.0,
) -> Images:
    """z_s = μ_{s|t}(z_t, x̂) + √((σ̃²_{s|t})^(1−γ)·(σ²_{t|s})^γ)·ε (eq. 4–5), γ in [0, 1].

    γ interpolates log-variances: 0 is the variance of z_s when x is known, 1 when x is N(0, I). The last step
    adds no noise and ends at x̂.

    Raises UsageError without `noise`.
    """
    if noise is None:
        raise UsageError("ancestral sampling draws noise at every step: pass noise=")
    velocity = clipped(velocity) if clip else velocity
    for step in range(steps):
        t, s = 1 - step / steps, 1 - (step + 1) / steps
        z = posterior_mean(z, ask_x(velocity, z, t), t, s)
        if s > 0:
            variance = posterior_variance(t, s) ** (1 - gamma) * forward_variance(t, s) ** gamma
            z = z + math.sqrt(variance) * noise(step)
    return z
