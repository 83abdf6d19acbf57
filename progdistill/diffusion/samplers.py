"""Samplers: from pure noise to an image in N steps. All share one signature; `SAMPLERS` names them."""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from progdistill.diffusion.names import SamplerName
from progdistill.diffusion.prediction import Velocity, ask, ask_x, clipped
from progdistill.diffusion.schedule import Images, alpha_sigma_at
from progdistill.errors import UsageError

StepNoise = Callable[[int], Tensor]
"""Standard Gaussian noise shaped like z for step 0, 1, … of a stochastic sampler."""


@runtime_checkable
class Sampler(Protocol):
    """Maps z₁ ~ N(0, I) to x in `steps` equal steps of time from t = 1 to t = 0.

    z is float32 or float64, and so is the result, on the device of z. With `clip` every x̂ is clipped to
    [−1, 1], and ε̂ recomputed from it. Deterministic samplers draw no `noise` and ignore `gamma`. No sampler
    asks the velocity at t = 0, where z is x already and every prediction type but v would divide by zero.
    """

    def __call__(
        self,
        velocity: Velocity,
        z: Images,
        steps: int,
        *,
        noise: StepNoise | None = None,
        clip: bool = False,
        gamma: float = 0.0,
    ) -> Images: ...


def forward_variance(t: float, s: float) -> float:
    """σ²_{t|s} = (1 − r)·σ_t², the variance of q(z_t | z_s) (eq. 1)."""
    return _one_minus_r(t, s) * alpha_sigma_at(t)[1] ** 2


def posterior_variance(t: float, s: float) -> float:
    """σ̃²_{s|t} = (1 − r)·σ_s², the variance of q(z_s | z_t, x) (eq. 3)."""
    return _one_minus_r(t, s) * alpha_sigma_at(s)[1] ** 2


def posterior_mean(z: Images, x: Images, t: float, s: float) -> Images:
    """μ_{s|t}(z_t, x) = r·(α_s/α_t)·z_t + (1 − r)·α_s·x (eq. 3)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma_at(t), alpha_sigma_at(s)
    kept = alpha_t * sigma_s**2 / (alpha_s * sigma_t**2)
    return kept * z + _one_minus_r(t, s) * alpha_s * x


def _one_minus_r(t: float, s: float) -> float:
    """1 − r = 1 − (tan φ_s/tan φ_t)² as a product of sines, since for close times the difference cancels."""
    apart, together = (t - s) * math.pi / 2, (t + s) * math.pi / 2
    return math.sin(apart) * math.sin(together) / (alpha_sigma_at(s)[0] * alpha_sigma_at(t)[1]) ** 2


def ddim(
    velocity: Velocity,
    z: Images,
    steps: int,
    *,
    noise: StepNoise | None = None,
    clip: bool = False,
    gamma: float = 0.0,
) -> Images:
    """DDIM (eq. 8) as the rotation that it is in angles: z_{φ−δ} = cos δ·z_φ − sin δ·v̂ (eq. 38)."""
    velocity = clipped(velocity) if clip else velocity
    delta = math.pi / (2 * steps)
    for step in range(steps):
        z = math.cos(delta) * z - math.sin(delta) * ask(velocity, z, 1 - step / steps)
    return z


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


def dpm_solver(
    velocity: Velocity,
    z: Images,
    steps: int,
    *,
    noise: StepNoise | None = None,
    clip: bool = False,
    gamma: float = 0.0,
) -> Images:
    """A second-order multistep method at one evaluation a step: DDIM toward an extrapolated x̂.

    x̂ is extrapolated linearly in the log-SNR from this step and the one before. The log-SNR is −∞ at t = 1
    and +∞ at t = 0: so the first two steps and the last are plain DDIM.
    """
    velocity = clipped(velocity) if clip else velocity
    delta = math.pi / (2 * steps)
    before = z
    for step in range(steps):
        t, s = 1 - step / steps, 1 - (step + 1) / steps
        x = ask_x(velocity, z, t)
        ahead = x + _extrapolation(t, delta) * (x - before) if 2 <= step < steps - 1 else x
        z = (alpha_sigma_at(s)[1] * z + math.sin(delta) * ahead) / alpha_sigma_at(t)[1]
        before = x
    return z


def _extrapolation(t: float, delta: float) -> float:
    """Half the coming change of log-SNR over the change just made."""
    angle = t * math.pi / 2
    before, now, after = (math.log(math.tan(angle + shift)) for shift in (delta, 0, -delta))
    return (now - after) / (2 * (before - now))


class Tableau(NamedTuple):
    """A Butcher tableau: stage i lies `nodes[i]` of the step ahead, reached along `couplings[i]`."""

    nodes: tuple[float, ...]
    couplings: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


EULER = Tableau((0.0,), ((),), (1.0,))
MIDPOINT = Tableau((0.0, 1 / 2), ((), (1 / 2,)), (0.0, 1.0))
HEUN = Tableau((0.0, 1.0), ((), (1.0,)), (1 / 2, 1 / 2))
HEUN_THIRD_ORDER = Tableau((0.0, 1 / 3, 2 / 3), ((), (1 / 3,), (0.0, 2 / 3)), (1 / 4, 0.0, 3 / 4))
CLASSIC = Tableau(
    (0.0, 1 / 2, 1 / 2, 1.0),
    ((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    (1 / 6, 1 / 3, 1 / 3, 1 / 6),
)


def runge_kutta(method: Tableau, last_method: Tableau) -> Sampler:
    """A sampler that takes every step with `method` but the last one, which must not ask at t = 0.

    One single step of one order less leaves the order of the whole as it is.
    """

    def sample(
        velocity: Velocity,
        z: Images,
        steps: int,
        *,
        noise: StepNoise | None = None,
        clip: bool = False,
        gamma: float = 0.0,
    ) -> Images:
        velocity = clipped(velocity) if clip else velocity
        for step in range(steps):
            z = _step(last_method if step == steps - 1 else method, velocity, z, step, steps)
        return z

    return sample


def _step(method: Tableau, velocity: Velocity, z: Images, step: int, steps: int) -> Images:
    delta = math.pi / (2 * steps)
    slopes: list[Images] = []
    for node, coupling in zip(method.nodes, method.couplings, strict=True):
        slopes.append(ask(velocity, _moved(z, delta, coupling, slopes), 1 - (step + node) / steps))
    return _moved(z, delta, method.weights, slopes)


def _moved(z: Images, delta: float, weights: tuple[float, ...], slopes: list[Images]) -> Images:
    """z − δ·Σ wᵢ·vᵢ: φ falls as samples form."""
    for weight, slope in zip(weights, slopes, strict=True):
        z = z - delta * weight * slope
    return z


euler = runge_kutta(EULER, EULER)
heun = runge_kutta(HEUN, MIDPOINT)
rk4 = runge_kutta(CLASSIC, HEUN_THIRD_ORDER)


SAMPLERS: dict[SamplerName, Sampler] = {
    SamplerName.DDIM: ddim,
    SamplerName.ANCESTRAL: ancestral,
    SamplerName.EULER: euler,
    SamplerName.HEUN: heun,
    SamplerName.RK4: rk4,
    SamplerName.DPM_SOLVER: dpm_solver,
}
