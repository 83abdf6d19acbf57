"""Samplers: from noise to an image along any grid of times. All have the signature `Sampler`; `SAMPLERS` lists them.

To add a sampler: a function with that signature, a name in `names.SamplerName`, and a row of `SAMPLERS`.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from progdistill.diffusion.names import SamplerName
from progdistill.diffusion.prediction import Velocity
from progdistill.diffusion.schedule import Images, alpha_sigma_at
from progdistill.errors import UsageError

StepNoise = Callable[[int], Tensor]
"""Standard Gaussian noise shaped like z for step 0, 1, … of a stochastic sampler."""


@runtime_checkable
class Sampler(Protocol):
    """Maps z ~ N(0, I) to x along a grid of times."""

    def __call__(
        self, velocity: Velocity, z: Images, times: Sequence[float], noise: StepNoise | None = None, gamma: float = 0.0
    ) -> Images:
        """Sample.

        Args:
            velocity: The model, `clipped` or not; never evaluated at t = 0, where most predictions would divide by 0.
            z: Standard Gaussian noise, float32 or float64.
            times: At least two, falling from at most 1 to 0; `grid.times(steps)` gives them.
            noise: Needed by stochastic samplers, ignored by others.
            gamma: Variance of stochastic samplers, 0 to 1; ignored by others.

        Returns:
            Images with the shape, dtype and device of z.

        Raises:
            UsageError: A stochastic sampler was called without `noise`.
        """


def _velocity_at(velocity: Velocity, z: Images, t: float) -> Images:
    """v̂(z, t) at one time for the whole batch, in the dtype of z."""
    return velocity(z, torch.full((len(z),), t, dtype=z.dtype, device=z.device)).to(z.dtype)


def _x_at(velocity: Velocity, z: Images, t: float) -> Images:
    """x̂ = α·z − σ·v̂ (eq. 30) at one time for the whole batch."""
    alpha, sigma = alpha_sigma_at(t)
    return alpha * z - sigma * _velocity_at(velocity, z, t)


def ddim(
    velocity: Velocity, z: Images, times: Sequence[float], noise: StepNoise | None = None, gamma: float = 0.0
) -> Images:
    """DDIM (eq. 8) as a rotation of z: z_{φ−δ} = cos δ·z_φ − sin δ·v̂ (eq. 38)."""
    for t, s in pairwise(times):
        delta = (t - s) * math.pi / 2
        z = math.cos(delta) * z - math.sin(delta) * _velocity_at(velocity, z, t)
    return z


def ancestral(
    velocity: Velocity, z: Images, times: Sequence[float], noise: StepNoise | None = None, gamma: float = 0.0
) -> Images:
    """z_s = μ_{s|t}(z_t, x̂) + √((σ̃²_{s|t})^(1−γ)·(σ²_{t|s})^γ)·ε (eq. 4–5), γ in [0, 1].

    γ interpolates log-variances: 0 is the variance of z_s when x is known, 1 when x is N(0, I). The last step
    adds no noise and ends at x̂.
    """
    if noise is None:
        raise UsageError("ancestral sampling draws noise at every step: pass noise=")
    for step, (t, s) in enumerate(pairwise(times)):
        z = posterior_mean(z, _x_at(velocity, z, t), t, s)
        if s > 0:
            variance = posterior_variance(t, s) ** (1 - gamma) * forward_variance(t, s) ** gamma
            z = z + math.sqrt(variance) * noise(step)
    return z


def forward_variance(t: float, s: float) -> float:
    """σ²_{t|s} = (1 − r)·σ_t², the variance of q(z_t | z_s) (eq. 1)."""
    return _one_minus_r(t, s) * alpha_sigma_at(t)[1] ** 2


def posterior_variance(t: float, s: float) -> float:
    """σ̃²_{s|t} = (1 − r)·σ_s², the variance of q(z_s | z_t, x) (eq. 3)."""
    return _one_minus_r(t, s) * alpha_sigma_at(s)[1] ** 2


def posterior_mean(z: Images, x: Images, t: float, s: float) -> Images:
    """μ_{s|t}(z_t, x) = r·(α_s/α_t)·z_t + (1 − r)·α_s·x (eq. 3)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma_at(t), alpha_sigma_at(s)
    z_coefficient = alpha_t * sigma_s**2 / (alpha_s * sigma_t**2)
    return z_coefficient * z + _one_minus_r(t, s) * alpha_s * x


def _one_minus_r(t: float, s: float) -> float:
    """1 − r = 1 − (tan φ_s/tan φ_t)² as a product of sines: for close times the difference would cancel."""
    difference, total = (t - s) * math.pi / 2, (t + s) * math.pi / 2
    return math.sin(difference) * math.sin(total) / (alpha_sigma_at(s)[0] * alpha_sigma_at(t)[1]) ** 2


def dpm_solver(
    velocity: Velocity, z: Images, times: Sequence[float], noise: StepNoise | None = None, gamma: float = 0.0
) -> Images:
    """DPM-Solver++(2M), a second-order multistep method: DDIM toward an extrapolated x̂.

    x̂ is extrapolated linearly in the log-SNR from this step and the one before. The log-SNR is −∞ at t = 1
    and +∞ at t = 0: the first step, a second one after t = 1, and the last are plain DDIM.
    """
    before, previous = 1.0, z
    for t, s in pairwise(times):
        x = _x_at(velocity, z, t)
        target = x + _extrapolation(before, t, s) * (x - previous) if before < 1 and s > 0 else x
        z = (alpha_sigma_at(s)[1] * z + math.sin((t - s) * math.pi / 2) * target) / alpha_sigma_at(t)[1]
        before, previous = t, x
    return z


def _extrapolation(before: float, t: float, s: float) -> float:
    """Half the change of log-SNR in the coming step over that in the step before."""
    earlier, now, after = (math.log(math.tan(time * math.pi / 2)) for time in (before, t, s))
    return (now - after) / (2 * (earlier - now))


class Tableau(NamedTuple):
    """A Butcher tableau: stage i is evaluated at `nodes[i]` of the step, reached along `couplings[i]`."""

    nodes: tuple[float, ...]
    couplings: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


EULER = Tableau((0.0,), ((),), (1.0,))
MIDPOINT = Tableau((0.0, 1 / 2), ((), (1 / 2,)), (0.0, 1.0))
HEUN = Tableau((0.0, 1.0), ((), (1.0,)), (1 / 2, 1 / 2))
HEUN_THIRD_ORDER = Tableau((0.0, 1 / 3, 2 / 3), ((), (1 / 3,), (0.0, 2 / 3)), (1 / 4, 0.0, 3 / 4))
CLASSIC = Tableau((0.0, 1 / 2, 1 / 2, 1.0), ((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))


def runge_kutta(method: Tableau, last_method: Tableau) -> Sampler:
    """Make a sampler of the probability-flow ODE dz/dφ = v̂ (eq. 6).

    Args:
        method: The method of all steps but the last.
        last_method: The method of the last step, which must not evaluate at t = 0; one order less in a single
            step leaves the order of the whole as it is.
    """

    def sample(
        velocity: Velocity, z: Images, times: Sequence[float], noise: StepNoise | None = None, gamma: float = 0.0
    ) -> Images:
        for t, s in pairwise(times):
            z = _step(method if s > 0 else last_method, velocity, z, t, s)
        return z

    return sample


def _step(method: Tableau, velocity: Velocity, z: Images, t: float, s: float) -> Images:
    delta = (t - s) * math.pi / 2
    slopes: list[Images] = []
    for node, coupling in zip(method.nodes, method.couplings, strict=True):
        stage = _descend(z, delta, coupling, slopes)
        slopes.append(_velocity_at(velocity, stage, t - node * (t - s)))
    return _descend(z, delta, method.weights, slopes)


def _descend(z: Images, delta: float, weights: tuple[float, ...], slopes: list[Images]) -> Images:
    """z − δ·Σ wᵢ·vᵢ: φ falls while sampling."""
    for weight, slope in zip(weights, slopes, strict=True):
        z = z - delta * weight * slope
    return z


SAMPLERS: dict[SamplerName, Sampler] = {
    SamplerName.DDIM: ddim,
    SamplerName.ANCESTRAL: ancestral,
    SamplerName.EULER: runge_kutta(EULER, EULER),
    SamplerName.HEUN: runge_kutta(HEUN, MIDPOINT),
    SamplerName.RK4: runge_kutta(CLASSIC, HEUN_THIRD_ORDER),
    SamplerName.DPM_SOLVER: dpm_solver,
}
