"""The weighted reconstruction losses of section 4, in v-space, where none of them cancels."""

import torch
from jaxtyping import Float
from torch import Tensor

from progdistill.diffusion.names import LossWeight, PredictionType
from progdistill.diffusion.prediction import velocity_from_output
from progdistill.diffusion.schedule import alpha_sigma

Images = Float[Tensor, "batch ..."]
Times = Float[Tensor, " batch"]


def velocity_weight(t: Times, weight: LossWeight) -> Times:
    """The weight of ‖v − v̂‖² that equals w(λ)·‖x − x̂‖², since x − x̂ = −σ·(v − v̂).

    SNR: (α²/σ²)·σ² = α². Truncated SNR: max(α²/σ², 1)·σ² = max(α², σ²). SNR + 1: (α² + σ²) = 1.
    """
    alpha, sigma = alpha_sigma(t)
    match weight:
        case LossWeight.SNR:
            return alpha**2
        case LossWeight.TRUNCATED_SNR:
            return torch.maximum(alpha**2, sigma**2)
        case LossWeight.SNR_PLUS_ONE:
            return torch.ones_like(t)


def weighted_loss(
    output: Images,
    target_velocity: Images,
    z: Images,
    t: Times,
    prediction: PredictionType,
    weight: LossWeight,
) -> Float[Tensor, " batch"]:
    """w(λ_t)·‖x − x̂‖² for each sample, as a mean over its pixels; float32.

    `target_velocity` carries the target of any prediction type: v, x and ε follow from one another given z.
    """
    v = velocity_from_output(output.float(), z, t, prediction)
    return velocity_weight(t, weight) * (target_velocity - v).square().flatten(1).mean(dim=1)
