"""Runge–Kutta methods on the probability-flow ODE (eq. 6, App. C).

In the angle φ = πt/2 of the cosine schedule the ODE is dz/dφ = v̂(z, φ) (App. D): smooth at both ends, where
eq. 6 in terms of t or λ has factors that grow without bound.
"""

import math
from typing import NamedTuple

from progdistill.diffusion.sampler import Sampler, StepNoise
from progdistill.diffusion.schedule import Images
from progdistill.diffusion.velocity import Velocity, ask, clipped


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
