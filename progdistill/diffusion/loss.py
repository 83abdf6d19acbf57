"""The training loss w(λ_t)·‖x − x̂‖² (eq. 2), or two others, for every prediction type and loss weight (section 4)."""

import torch
from jaxtyping import Float
from torch import Tensor

from progdistill.diffusion.names import LossName, LossWeight, PredictionType
from progdistill.diffusion.prediction import Latents, Outputs, eps_from_velocity, velocity_from_output, x_from_velocity
from progdistill.diffusion.schedule import SMALLEST_COEFFICIENT, Times, alpha_sigma

HUBER_CONSTANT = 0.00054
"""Root mean square error about which the pseudo-Huber loss turns from squared to linear (Song & Dhariwal 2023)."""


def weighted_loss(
    output: Outputs,
    target_velocity: Latents,
    z: Latents,
    t: Times,
    prediction: PredictionType,
    loss_weight: LossWeight,
    loss: LossName = LossName.SQUARED,
) -> Float[Tensor, " batch"]:
    """w(λ_t) times the mean over pixels of (x − x̂)² (eq. 2), or another loss of √w(λ_t)·(x − x̂).

    In terms of velocities x − x̂ = −σ·(v − v̂), so that SNR+1 is ‖v − v̂‖², SNR is α²·‖v − v̂‖² = ‖ε − ε̂‖², and
    truncated SNR is max(α², σ²)·‖v − v̂‖² = max(‖x − x̂‖², ‖ε − ε̂‖²). The error is taken in what the network
    predicts, before anything is divided: it does not cancel, and its gradient is finite at both ends.

    Args:
        output: The network's raw output.
        target_velocity: v, or a teacher's v*.
        z: The noisy images.
        t: Their times in [0, 1].
        prediction: What the output means.
        loss_weight: w(λ_t).
        loss: Pseudo-Huber is of the root mean square over pixels, L1 the mean of absolute values.

    Returns:
        One loss per sample, in the dtype of t.
    """
    error = _output_error(output, target_velocity, z, t, prediction)
    weight = reconstruction_weight(t, loss_weight) * _x_error_scale(t, prediction).square()
    if loss is LossName.L1:
        return weight.sqrt() * error.abs().flatten(1).mean(1)
    squared = weight * error.square().flatten(1).mean(1)
    if loss is LossName.PSEUDO_HUBER:
        return (squared + HUBER_CONSTANT**2).sqrt() - HUBER_CONSTANT
    return squared


def reconstruction_weight(t: Times, loss_weight: LossWeight) -> Times:
    """w(λ_t), the weight of ‖x − x̂‖² (Figure 2), with λ_t limited to [−20, 20]."""
    alpha, sigma = _limited(t)
    snr = (alpha / sigma).square()
    match loss_weight:
        case LossWeight.SNR:
            return snr
        case LossWeight.TRUNCATED_SNR:
            return snr.clamp(min=1)
        case LossWeight.SNR_PLUS_ONE:
            return snr + 1


def _output_error(
    output: Outputs, target_velocity: Latents, z: Latents, t: Times, prediction: PredictionType
) -> Latents:
    """The error of the network's output; for (x, ε) the error of v̂."""
    match prediction:
        case PredictionType.X:
            return output - x_from_velocity(target_velocity, z, t)
        case PredictionType.EPS:
            return output - eps_from_velocity(target_velocity, z, t)
        case PredictionType.V | PredictionType.X_EPS:
            return velocity_from_output(output, z, t, prediction) - target_velocity


def _x_error_scale(t: Times, prediction: PredictionType) -> Times:
    """The size of the error of x̂ for an error of 1 in `_output_error`."""
    alpha, sigma = _limited(t)
    match prediction:
        case PredictionType.X:
            return torch.ones_like(t)
        case PredictionType.EPS:
            return sigma / alpha
        case PredictionType.V | PredictionType.X_EPS:
            return sigma


def _limited(t: Times) -> tuple[Times, Times]:
    alpha, sigma = alpha_sigma(t)
    return alpha.clamp(min=SMALLEST_COEFFICIENT), sigma.clamp(min=SMALLEST_COEFFICIENT)
