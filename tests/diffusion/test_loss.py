"""Every prediction type with every loss weight against the loss of section 4, in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from progdistill.diffusion.loss import reconstruction_weight, weighted_loss
from progdistill.diffusion.names import LossWeight, PredictionType
from progdistill.diffusion.prediction import velocity_from_x_eps
from progdistill.diffusion.schedule import coefficients, diffuse, log_snr, time_of_log_snr

LogWeight = Callable[[float], float]
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
    output = random(50, 3 * prediction.output_multiplier, 4, 4, seed=2)
    alpha, sigma = coefficients(t, z)
    loss = weighted_loss(output, alpha * eps - sigma * x, z, t, prediction, weight)
    wanted = section_4_loss(x, predicted_x(output, z, t, prediction), z, t, weight)
    torch.testing.assert_close(loss, wanted, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("prediction", "weight"), COMBINATIONS)
def test_loss_and_gradient_are_finite_at_both_ends(prediction: PredictionType, weight: LossWeight) -> None:
    t = torch.tensor([0.0, 1e-7, 1 / 8192, 1 - 1 / 8192, 1 - 1e-7, 1.0])
    z, v = random(6, 3, 4, 4, seed=0).float(), random(6, 3, 4, 4, seed=1).float()
    output = random(6, 3 * prediction.output_multiplier, 4, 4, seed=2).float().requires_grad_()
    loss = weighted_loss(output, v, z, t, prediction, weight)
    loss.sum().backward()
    assert output.grad is not None
    assert loss.isfinite().all()
    assert output.grad.isfinite().all()


@pytest.mark.parametrize(("prediction", "weight"), COMBINATIONS)
def test_in_float32_a_small_error_keeps_its_digits(prediction: PredictionType, weight: LossWeight) -> None:
    """What distillation sees: outputs off by 1e-3 at the times of an 8192-step student."""
    t = torch.tensor([1, 2, 64, 4096, 8128, 8190, 8191], dtype=torch.float64) / 8192
    x, eps = random(7, 3, 8, 8, seed=0), random(7, 3, 8, 8, seed=1)
    z, v = diffuse(x, eps, t), velocity_from_x_eps(x, eps, t)
    perfect = {
        PredictionType.X: x,
        PredictionType.EPS: eps,
        PredictionType.V: v,
        PredictionType.X_EPS: torch.cat((x, eps), dim=1),
    }[prediction]
    output = perfect + 1e-3 * random(*perfect.shape, seed=2)
    exact = weighted_loss(output, v, z, t, prediction, weight)
    rounded = weighted_loss(output.float(), v.float(), z.float(), t.float(), prediction, weight)
    torch.testing.assert_close(rounded.double(), exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize("prediction", [PredictionType.X, PredictionType.V, PredictionType.X_EPS])
def test_at_t_1_snr_gives_no_weight_and_the_others_do(prediction: PredictionType) -> None:
    t = torch.ones(1)
    z, v = random(1, 3, 4, 4, seed=0).float(), random(1, 3, 4, 4, seed=1).float()
    output = random(1, 3 * prediction.output_multiplier, 4, 4, seed=2).float()
    losses = {weight: weighted_loss(output, v, z, t, prediction, weight).item() for weight in LossWeight}
    assert losses[LossWeight.SNR] < 1e-8
    assert losses[LossWeight.TRUNCATED_SNR] > 0.1
    assert losses[LossWeight.SNR_PLUS_ONE] == pytest.approx(losses[LossWeight.TRUNCATED_SNR], rel=1e-6)


@pytest.mark.parametrize(
    ("weight", "log_weight"),
    [
        (LossWeight.SNR, lambda snr: snr),
        (LossWeight.TRUNCATED_SNR, lambda snr: max(snr, 0)),
        (LossWeight.SNR_PLUS_ONE, lambda snr: math.log1p(math.exp(snr))),
    ],
)
def test_the_weights_are_the_curves_of_figure_2_left(weight: LossWeight, log_weight: LogWeight) -> None:
    snr = torch.linspace(-15, 15, 121, dtype=torch.float64)
    wanted = torch.tensor([log_weight(value) for value in snr.tolist()], dtype=torch.float64)
    assert (reconstruction_weight(time_of_log_snr(snr), weight).log() - wanted).abs().max() < 1e-9


def test_the_schedule_gives_the_curves_of_figure_2_right() -> None:
    """Times drawn from U[0, 1] give λ the density dt/dλ, by which the weights are multiplied."""
    t = torch.linspace(0.02, 0.98, 97, dtype=torch.float64, requires_grad=True)
    snr = log_snr(t)
    (slope,) = torch.autograd.grad(snr.sum(), t)
    snr, density = snr.detach(), -1 / slope
    curves = {weight: density * reconstruction_weight(t.detach(), weight) for weight in LossWeight}
    torch.testing.assert_close(density, 1 / (2 * math.pi * torch.cosh(snr / 2)))
    torch.testing.assert_close(curves[LossWeight.SNR], torch.exp(snr / 2) * torch.sigmoid(snr) / math.pi)
    truncated = torch.exp(snr.abs() / 2) * torch.sigmoid(snr.abs()) / math.pi
    torch.testing.assert_close(curves[LossWeight.TRUNCATED_SNR], torch.where(snr > 0, truncated, density))
    torch.testing.assert_close(curves[LossWeight.SNR_PLUS_ONE], torch.exp(snr / 2) / math.pi)
