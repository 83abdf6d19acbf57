"""The one thing samplers and targets ask of a model: its velocity v̂(z, t) as a plain function."""

from collections.abc import Callable

import torch
from torch import Tensor

from progdistill.diffusion.prediction import x_from_velocity
from progdistill.diffusion.schedule import Images, Times, alpha_sigma_at, coefficients

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(z: [batch, …], t: [batch] in [0, 1]) → v̂ like z. Class labels and guidance are bound inside."""


def ask(velocity: Velocity, z: Images, t: float) -> Images:
    """v̂(z, t) at one time for the whole batch, in the dtype of z (float32 or float64)."""
    return velocity(z, torch.full((len(z),), t, dtype=z.dtype, device=z.device)).to(z.dtype)


def ask_x(velocity: Velocity, z: Images, t: float) -> Images:
    """x̂ = α·z − σ·v̂ (eq. 30) at one time for the whole batch."""
    alpha, sigma = alpha_sigma_at(t)
    return alpha * z - sigma * ask(velocity, z, t)


def clipped(velocity: Velocity) -> Velocity:
    """The same model with x̂ clipped to [−1, 1] and ε̂ recomputed from it: ε̂ = (z − α·x̂)/σ. Needs t > 0.

    In velocities that is v̂ + (x̂ − clip(x̂))/σ, which leaves v̂ untouched where nothing is clipped.
    """

    def clipped_velocity(z: Images, t: Times) -> Images:
        v = velocity(z, t)
        x = x_from_velocity(v, z, t)
        _, sigma = coefficients(t, z)
        return v + (x - x.clamp(-1, 1)) / sigma

    return clipped_velocity
