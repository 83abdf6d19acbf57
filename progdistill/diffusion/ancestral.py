"""Ancestral sampling, the stochastic sampler of the paper."""

import math

from progdistill.diffusion.sampler import StepNoise
from progdistill.diffusion.schedule import Images
from progdistill.diffusion.velocity import Velocity, ask, clipped
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
        z = _mean(z, ask(velocity, z, t), t, s)
        if s > 0:
            z = z + _deviation(t, s, gamma) * noise(step)
    return z


def _mean(z: Images, v: Images, t: float, s: float) -> Images:
    """μ_{s|t}(z_t, x̂) (eq. 3) with e^(λ_t−λ_s) multiplied out, so that t = 1 and s = 0 divide by nothing."""
    alpha_t, sigma_t = _alpha_sigma(t)
    alpha_s, sigma_s = _alpha_sigma(s)
    x = alpha_t * z - sigma_t * v
    return (alpha_t * sigma_s**2) / (sigma_t**2 * alpha_s) * z + _one_minus_r(t, s) * alpha_s * x


def _deviation(t: float, s: float, gamma: float) -> float:
    """√((σ̃²_{s|t})^(1−γ)·(σ²_{t|s})^γ) with σ̃²_{s|t} = (1 − r)·σ_s², σ²_{t|s} = (1 − r)·σ_t²."""
    _, sigma_t = _alpha_sigma(t)
    _, sigma_s = _alpha_sigma(s)
    return math.sqrt(_one_minus_r(t, s)) * math.pow(sigma_s, 1 - gamma) * math.pow(sigma_t, gamma)


def _one_minus_r(t: float, s: float) -> float:
    """1 − r with r = e^(λ_t−λ_s), which for close times would cancel, as a product of sines."""
    alpha_s, sigma_t = _alpha_sigma(s)[0], _alpha_sigma(t)[1]
    angle_t, angle_s = t * math.pi / 2, s * math.pi / 2
    return math.sin(angle_t - angle_s) * math.sin(angle_t + angle_s) / (alpha_s * sigma_t) ** 2


def _alpha_sigma(t: float) -> tuple[float, float]:
    return math.sin((1 - t) * math.pi / 2), math.sin(t * math.pi / 2)
