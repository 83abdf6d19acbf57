"""Classifier-free guidance (Ho & Salimans 2021) in terms of velocities."""

import torch
from jaxtyping import Float
from torch import Tensor

from progdistill.diffusion.prediction import Velocity
from progdistill.diffusion.schedule import Images, Times, broadcast

GuidanceWeight = float | Float[Tensor, " batch"]


def guided(conditional: Velocity, unconditional: Velocity, weight: GuidanceWeight) -> Velocity:
    """v̂ = (1 + w)·v̂_conditional − w·v̂_unconditional, w one number or one a sample; 0 is no guidance.

    x̂, ε̂ and v̂ are affine in each other at a given z, so guiding one guides all alike.
    """

    def guided_velocity(z: Images, t: Times) -> Images:
        informed = conditional(z, t)
        scale = broadcast(weight, z) if isinstance(weight, Tensor) else weight
        return informed + scale * (informed - unconditional(z, t))

    return guided_velocity


@torch.no_grad()
def guidance_target(
    conditional: Velocity, unconditional: Velocity, z: Images, t: Times, weight: GuidanceWeight
) -> Images:
    """v* of a student that has the weight as an input (Meng et al. 2023, stage one): the guided velocity."""
    return guided(conditional, unconditional, weight)(z, t).to(z.dtype)
