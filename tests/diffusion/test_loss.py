"""Every prediction type with every weight against the loss as section 4 writes it, in float64."""

import pytest
import torch
from torch import Tensor

from progdistill.diffusion.loss import weighted_loss
from progdistill.diffusion.names import LossWeight, PredictionType
from progdistill.diffusion.prediction import output_multiplier
from progdistill.diffusion.schedule import coefficients, diffuse

COMBINATIONS = [(prediction, weight) for prediction in PredictionType for weight in LossWeight]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def predicted_x(output: Tensor, z: Tensor, t: Tensor, prediction: PredictionType) -> Tensor:
    """x̂ of a raw output by the formulas of section 4."""
    alpha, sigma = coefficients(t, z)
    match prediction:
        case PredictionType.X:
            return output
        case PredictionType.V:
            return alpha * z - sigma * output
        case PredictionType.EPS:
            return (z - sigma * output) / alpha
        case PredictionType.X_EPS:
            x, eps = output.chunk(2, dim=1)
            return sigma**2 * x + alpha * (z - sigma * eps)


def section_4_loss(x: Tensor, predicted: Tensor, z: Tensor, t: Tensor, weight: LossWeight) -> Tensor:
    """w(λ)·‖x − x̂‖² as a mean over pixels, from the norms that section 4 names."""
    alpha, sigma = coefficients(t, z)

    def error(of: Tensor, estimate: Tensor) -> Tensor:
        return (of - estimate).square().flatten(1).mean(1)

    eps, predicted_eps = (z - alpha * x) / sigma, (z - alpha * predicted) / sigma
    match weight:
        case LossWeight.SNR:
            return error(eps, predicted_eps)
        case LossWeight.TRUNCATED_SNR:
            return torch.maximum(error(x, predicted), error(eps, predicted_eps))
        case LossWeight.SNR_PLUS_ONE:
            return error(alpha * eps - sigma * x, alpha * predicted_eps - sigma * predicted)


@pytest.mark.parametrize(("prediction", "weight"), COMBINATIONS)
def test_the_loss_is_that_of_section_4(prediction: PredictionType, weight: LossWeight) -> None:
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    x, eps = random(50, 3, 4, 4, seed=0), random(50, 3, 4, 4, seed=1)
    z = diffuse(x, eps, t)
    output = random(50, 3 * output_multiplier(prediction), 4, 4, seed=2)
    alpha, sigma = coefficients(t, z)
    loss = weighted_loss(output, alpha * eps - sigma * x, z, t, prediction, weight)
    wanted = section_4_loss(x, predicted_x(output, z, t, prediction), z, t, weight)
    torch.testing.assert_close(loss, wanted, rtol=1e-9, atol=0)
