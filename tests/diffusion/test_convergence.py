"""Samplers against the exact probability-flow map and the exact distribution, in float64."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from progdistill.diffusion.grid import AngleGrid, FlowGrid
from progdistill.diffusion.names import SamplerName
from progdistill.diffusion.samplers import SAMPLERS
from tests.diffusion.closed_forms import TWO_MODES, GaussianMixture, gaussian

Z = torch.linspace(-2.5, 2.5, 101, dtype=torch.float64)[:, None]
even = AngleGrid().times
every_data = pytest.mark.parametrize("data", [TWO_MODES, gaussian(0.3, 0.7), gaussian(0.2, 0.3)])


def error(name: SamplerName, data: GaussianMixture, steps: int) -> float:
    """Root mean square distance from the exact flow map over the range of z."""
    x = SAMPLERS[name](data.velocity, Z, even(steps))
    return (x - data.flow_map(Z)).square().mean().sqrt().item()


def test_the_exact_map_of_a_gaussian_scales_and_shifts() -> None:
    assert (gaussian(0.3, 0.7).flow_map(Z) - (0.3 + 0.7 * Z)).abs().max() < 1e-12


@every_data
@pytest.mark.parametrize(
    ("name", "order"), [(SamplerName.DDIM, 1), (SamplerName.EULER, 1), (SamplerName.HEUN, 2), (SamplerName.RK4, 4)]
)
def test_the_error_falls_at_the_order_of_the_method(name: SamplerName, order: int, data: GaussianMixture) -> None:
    measured = math.log2(error(name, data, 64) / error(name, data, 128))
    assert measured == pytest.approx(order, abs=0.1)


@every_data
def test_the_order_of_dpm_solver_rises_to_two(data: GaussianMixture) -> None:
    """It extrapolates in log-SNR, whose steps stay finite at both ends of the schedule however large N is.

    There errors add up as δ²·Σ 1/i, so that the whole falls as log N/N².
    """
    errors = [error(SamplerName.DPM_SOLVER, data, steps) for steps in (256, 512, 1024)]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert 1.5 < orders[0] < orders[1] < 2


@every_data
def test_dpm_solver_is_nearer_than_ddim_from_few_steps_on(data: GaussianMixture) -> None:
    for steps in (8, 16, 32, 64):
        assert error(SamplerName.DPM_SOLVER, data, steps) < 0.8 * error(SamplerName.DDIM, data, steps)


def output_variance(name: SamplerName, data: GaussianMixture, steps: int, gamma: float) -> float:
    """The exact variance of the output for Gaussian data, where every sampler is linear in all it draws.

    Row 0 starts from z = 1, row k has 1 as its k-th noise: their outputs, less that of no noise at all, are
    the coefficients of independent standard Gaussians.
    """
    rows = torch.eye(steps + 1, dtype=torch.float64)
    draws = torch.cat((rows, torch.zeros(1, steps + 1, dtype=torch.float64)))

    def noise(step: int) -> Tensor:
        return draws[:, step + 1, None]

    x = SAMPLERS[name](data.velocity, draws[:, :1], even(steps), noise=noise, gamma=gamma)
    return (x[:-1] - x[-1]).square().sum().item()


@pytest.mark.parametrize("name", SamplerName)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_gaussian_data_come_out_with_their_variance(name: SamplerName, gamma: float) -> None:
    """Every sampler's variance tends to that of the data; ancestral sampling's for every γ."""
    data, variance = gaussian(0.3, 0.7), 0.49
    off = [abs(output_variance(name, data, steps, gamma) / variance - 1) for steps in (32, 64, 128)]
    assert off[0] > off[1] > off[2]
    assert off[2] < 0.05


def marginal_variances(data: GaussianMixture, steps: int, gamma: float) -> dict[float, float]:
    """Var z_t at every time at which ancestral sampling asks the denoiser."""
    draws = torch.cat((torch.eye(steps, dtype=torch.float64), torch.zeros(1, steps, dtype=torch.float64)))
    variances: dict[float, float] = {}

    def velocity(z: Tensor, t: Tensor) -> Tensor:
        variances[t[0].item()] = (z[:-1] - z[-1]).square().sum().item()
        return data.velocity(z, t)

    SAMPLERS[SamplerName.ANCESTRAL](
        velocity, draws[:, :1], even(steps), noise=lambda step: draws[:, step + 1, None], gamma=gamma
    )
    return variances


@pytest.mark.parametrize("steps", [1, 2, 5, 64])
def test_the_upper_variance_is_exact_for_standard_gaussian_data(steps: int) -> None:
    """γ = 1: where x ~ N(0, I) every z_t is N(0, I), and sampling keeps it so at any number of steps."""
    variances = marginal_variances(gaussian(0.0, 1.0), steps, gamma=1.0)
    assert len(variances) == steps
    assert list(variances.values()) == pytest.approx([1.0] * steps, rel=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 5, 64])
def test_the_lower_variance_is_exact_for_data_at_a_point(steps: int) -> None:
    """γ = 0: where x is known z_t is N(α_t·x, σ_t²), and sampling keeps it so at any number of steps."""
    variances = marginal_variances(gaussian(0.3, 1e-9), steps, gamma=0.0)
    wanted = [math.sin(t * math.pi / 2) ** 2 for t in variances]
    assert list(variances.values()) == pytest.approx(wanted, rel=1e-9)


def test_gamma_interpolates_the_log_variance() -> None:
    """At one and the same noise the deviations of γ = 0, ½, 1 form a geometric series (eq. 4)."""
    z = torch.zeros(1, 1, dtype=torch.float64)
    seen: list[float] = []

    def velocity(z: Tensor, t: Tensor) -> Tensor:
        seen.append(z.item())
        return torch.zeros_like(z)

    for gamma in (0.0, 0.5, 1.0):
        SAMPLERS[SamplerName.ANCESTRAL](velocity, z, even(2), noise=lambda step: torch.ones_like(z), gamma=gamma)
    low, middle, high = seen[1::2]
    assert low < middle < high
    assert middle**2 == pytest.approx(low * high)


@pytest.mark.parametrize(
    ("name", "least_order"), [(SamplerName.DDIM, 0.95), (SamplerName.HEUN, 1.9), (SamplerName.RK4, 3.9)]
)
def test_on_an_uneven_grid_methods_keep_their_order(name: SamplerName, least_order: float) -> None:
    grid, data = FlowGrid(shift=3), TWO_MODES
    coarse, fine = (
        (SAMPLERS[name](data.velocity, Z, grid.times(steps)) - data.flow_map(Z)).square().mean().sqrt().item()
        for steps in (256, 512)
    )
    assert math.log2(coarse / fine) > least_order


def test_on_an_uneven_grid_dpm_solver_is_nearer_than_ddim() -> None:
    times, wanted = FlowGrid(shift=3).times(128), TWO_MODES.flow_map(Z)
    taken, ddim = (
        (SAMPLERS[name](TWO_MODES.velocity, Z, times) - wanted).square().mean().sqrt()
        for name in (SamplerName.DPM_SOLVER, SamplerName.DDIM)
    )
    assert taken < 0.2 * ddim


def test_where_a_grid_begins_below_1_the_second_step_of_dpm_solver_extrapolates() -> None:
    """The log-SNR is finite there: two steps of 2M from one point are no longer DDIM."""
    times = (0.6, 0.4, 0.2, 0.0)
    taken = SAMPLERS[SamplerName.DPM_SOLVER](TWO_MODES.velocity, Z, times)
    ddim = SAMPLERS[SamplerName.DDIM](TWO_MODES.velocity, Z, times)
    fine = SAMPLERS[SamplerName.RK4](TWO_MODES.velocity, Z, tuple(0.6 * (1 - i / 96) for i in range(97)))
    assert (taken - fine).square().mean() < 0.9 * (ddim - fine).square().mean()
