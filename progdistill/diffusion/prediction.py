"""The output of a network (section 4), converted to a velocity v̂ (App. D).

Everything else works on v̂: x̂ = α·z − σ·v̂ and ε̂ = σ·z + α·v̂ divide by nothing, at t = 1 and t = 0 alike.
Half-precision outputs are promoted to the dtype of t, float32 or float64.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.schedule import SMALLEST_COEFFICIENT, Images, Times, coefficients

Outputs = Float[Tensor, "batch outputs *rest"]
Latents = Float[Tensor, "batch channels *rest"]

SMALLEST_ALPHA_FOR_EPS = 0.00635
"""Lower bound of α in the conversion of ε̂ to v̂: α_T of the schedule of Ho et al. (2020), for which
ε-prediction was made, and which ends there. Below it, errors of ε̂ would grow without bound."""


def velocity_from_output(output: Outputs, z: Latents, t: Times, prediction: PredictionType) -> Latents:
    """Convert the network's raw output to v̂ (eq. 31).

    x: v̂ = (α·z − x̂)/σ, with σ at least SMALLEST_COEFFICIENT.
    ε: v̂ = (ε̂ − σ·z)/α, with α at least SMALLEST_ALPHA_FOR_EPS. At t = 1, where ε̂ says nothing of x (section
    4), a perfect ε̂ then gives v̂ = 0, which is x̂ = 0, and an error of ε̂ grows 158-fold at most.
    (x, ε): the paper's merged x̂ = σ²·x̂_θ + α·(z − σ·ε̂_θ) is exactly v̂ = α·ε̂_θ − σ·x̂_θ.

    Args:
        output: The raw output; for (x, ε) the channels of x̂, then those of ε̂.
        z: The noisy images.
        t: Their times in [0, 1], float32 or float64.
        prediction: What the output means.

    Returns:
        v̂ with the shape of z and the dtype of t.
    """
    alpha, sigma = coefficients(t, z)
    match prediction:
        case PredictionType.V:
            return output.to(torch.promote_types(output.dtype, t.dtype))
        case PredictionType.X:
            return (alpha * z - output) / sigma.clamp(min=SMALLEST_COEFFICIENT)
        case PredictionType.EPS:
            return (output - sigma * z) / alpha.clamp(min=SMALLEST_ALPHA_FOR_EPS)
        case PredictionType.X_EPS:
            x, eps = output.chunk(2, dim=1)
            return velocity_from_x_eps(x, eps, t)


def velocity_from_x_eps(x: Images, eps: Images, t: Times) -> Images:
    """v = α·ε − σ·x (eq. 26)."""
    alpha, sigma = coefficients(t, x)
    return alpha * eps - sigma * x


def x_from_velocity(v: Images, z: Images, t: Times) -> Images:
    """x̂ = α·z − σ·v̂ (eq. 30)."""
    alpha, sigma = coefficients(t, z)
    return alpha * z - sigma * v


def eps_from_velocity(v: Images, z: Images, t: Times) -> Images:
    """ε̂ = σ·z + α·v̂ (App. D)."""
    alpha, sigma = coefficients(t, z)
    return sigma * z + alpha * v


Velocity = Callable[[Tensor, Tensor], Tensor]
"""A model as a function: (z: [batch, …], t: [batch] in [0, 1]) → v̂ shaped like z."""


def clipped(velocity: Velocity) -> Velocity:
    """Wrap a model so that x̂ is clipped to [−1, 1] and ε̂ = (z − α·x̂)/σ recomputed from it; for t > 0.

    In velocities that is v̂ + (x̂ − clip(x̂))/σ, which leaves v̂ untouched where nothing is clipped.
    """

    def clipped_velocity(z: Images, t: Times) -> Images:
        v = velocity(z, t)
        x = x_from_velocity(v, z, t)
        _, sigma = coefficients(t, z)
        return v + (x - x.clamp(-1, 1)) / sigma

    return clipped_velocity
