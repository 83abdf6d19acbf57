"""Every prediction type converted to a velocity (section 4, App. D)."""

import pytest
import torch
from torch import Tensor

from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.prediction import (
    eps_from_velocity,
    velocity_from_output,
    velocity_from_x_eps,
    x_from_velocity,
)
from progdistill.diffusion.schedule import coefficients, diffuse


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def perfect_output(x: Tensor, eps: Tensor, t: Tensor, prediction: PredictionType) -> Tensor:
    """What a network that knows x and ε puts out."""
    match prediction:
        case PredictionType.X:
            return x
        case PredictionType.EPS:
            return eps
        case PredictionType.V:
            return velocity_from_x_eps(x, eps, t)
        case PredictionType.X_EPS:
            return torch.cat((x, eps), dim=1)


# Where ε is read, α is at least 0.00635: times up to 0.995.
T = torch.linspace(0.005, 0.995, 67, dtype=torch.float64)
X, EPS = random(67, 3, 4, 4, seed=0), random(67, 3, 4, 4, seed=1)
Z = diffuse(X, EPS, T)


@pytest.mark.parametrize("prediction", PredictionType)
def test_a_perfect_output_of_any_type_is_the_true_velocity(prediction: PredictionType) -> None:
    output = perfect_output(X, EPS, T, prediction)
    assert output.shape[1] == 3 * prediction.output_multiplier
    v = velocity_from_output(output, Z, T, prediction)
    assert (v - velocity_from_x_eps(X, EPS, T)).abs().max() < 1e-11


def test_x_and_eps_follow_from_the_velocity_without_loss() -> None:
    v = velocity_from_x_eps(X, EPS, T)
    assert (x_from_velocity(v, Z, T) - X).abs().max() < 1e-14
    assert (eps_from_velocity(v, Z, T) - EPS).abs().max() < 1e-14


def test_two_outputs_merge_as_section_4_says() -> None:
    x, eps = random(67, 3, 4, 4, seed=2), random(67, 3, 4, 4, seed=3)
    alpha, sigma = coefficients(T, Z)
    merged = sigma**2 * x + alpha * (Z - sigma * eps)
    v = velocity_from_output(torch.cat((x, eps), dim=1), Z, T, PredictionType.X_EPS)
    assert (x_from_velocity(v, Z, T) - merged).abs().max() < 1e-14


@pytest.mark.parametrize("prediction", PredictionType)
def test_velocities_and_their_gradients_are_finite_at_both_ends(prediction: PredictionType) -> None:
    t = torch.tensor([0.0, 1.0])
    z = random(2, 3, 4, 4, seed=4).float()
    output = random(2, 3 * prediction.output_multiplier, 4, 4, seed=5).float().requires_grad_()
    v = velocity_from_output(output, z, t, prediction)
    v.sum().backward()
    assert v.isfinite().all()
    assert output.grad is not None
    assert output.grad.isfinite().all()


@pytest.mark.parametrize("prediction", PredictionType)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_outputs_are_read_in_float32(dtype: torch.dtype, prediction: PredictionType) -> None:
    output, z, t = perfect_output(X, EPS, T, prediction).to(dtype), Z.float(), T.float()
    v = velocity_from_output(output, z, t, prediction)
    assert v.dtype == torch.float32
    assert torch.equal(v, velocity_from_output(output.float(), z, t, prediction))


def test_at_t_1_a_perfect_eps_says_nothing_and_its_errors_stay_bounded() -> None:
    t, z, error = torch.ones(1), torch.randn(1, 3, 4, 4), 1e-2
    v = velocity_from_output(z, z, t, PredictionType.EPS)
    assert not v.any()
    off = velocity_from_output(z + error, z, t, PredictionType.EPS)
    assert off.abs().max() < 158 * error
