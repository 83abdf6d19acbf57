"""Classifier-free guidance (Ho & Salimans 2021) in terms of velocities."""

import torch
from jaxtyping import Float
from torch import Tensor

from progdistill.diffusion.prediction import Velocity
from progdistill.diffusion.schedule import Images, Times, broadcast


def w_from_guidance_scale(guidance_scale: float | None) -> float | None:
    """w = guidance_scale − 1: users and diffusers count from 1, no guidance; the paper counts from 0."""
    return None if guidance_scale is None else guidance_scale - 1


def guided(conditional: Velocity, unconditional: Velocity, w: float | Float[Tensor, " batch"]) -> Velocity:
    """Guide a model: v̂ = (1 + w)·v̂_conditional − w·v̂_unconditional.

    x̂, ε̂ and v̂ are affine in each other at a given z, so guiding one of them guides all.

    Args:
        conditional: The model with class labels bound.
        unconditional: The model with the label "no class" bound.
        w: One number or one per sample; 0 is no guidance.
    """

    def guided_velocity(z: Images, t: Times) -> Images:
        informed = conditional(z, t)
        scale = broadcast(w, z) if isinstance(w, Tensor) else w
        return informed + scale * (informed - unconditional(z, t))

    return guided_velocity


@torch.no_grad()
def guidance_target(
    conditional: Velocity, unconditional: Velocity, z: Images, t: Times, w: float | Float[Tensor, " batch"]
) -> Images:
    """v* of a student that has w as an input (Meng et al. 2023, stage one): the guided velocity."""
    return guided(conditional, unconditional, w)(z, t).to(z.dtype)
