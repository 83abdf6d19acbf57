"""Each family of networks at our boundary: asked in its own terms, it is a velocity of ours, in float64.

The network of a family is the exact denoiser of Gaussian data in that family's own coefficients. Its own sampler, and
the stock scheduler of diffusers, must go where our DDIM goes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from progdistill.diffusion.grid import FlowGrid, Grid, KarrasGrid, TrailingGrid
from progdistill.diffusion.loss import weighted_loss
from progdistill.diffusion.names import LossWeight, PredictionType
from progdistill.diffusion.noise_schedules import DiscreteSchedule, EDMSchedule, FlowSchedule, NoiseSchedule
from progdistill.diffusion.prediction import Velocity, velocity_from_output
from progdistill.diffusion.samplers import ddim
from progdistill.models.boundary import Boundary
from tests.diffusion.closed_forms import TWO_MODES

LATENT = DiscreteSchedule(kind="scaled_linear", beta_start=0.00085, beta_end=0.012)
FLOW, SIT, EDM = FlowSchedule(), FlowSchedule(time_scale=1, reversed=True), EDMSchedule()
Z = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]


@dataclass(frozen=True)
class Family:
    """One family in its own terms."""

    schedule: NoiseSchedule
    grid: Grid
    prediction: PredictionType
    coefficients: Callable[[float], tuple[float, float]]
    """σ/α → α and σ of the family's states."""
    asked_with: Callable[[float], float]
    """σ/α → the time input."""
    answer: Callable[[Tensor, float, float], Tensor]
    """State α·x + σ·ε, α, σ → the network's exact output."""


def exact(state: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
    """E[x] and E[ε] given α·x + σ·ε."""
    shape = torch.ones_like(state)
    return TWO_MODES.posterior(state, alpha * shape, sigma * shape)


def index_of(ratio: float) -> float:
    """The index of a discrete schedule, interpolated in log-SNR."""
    rising = LATENT.log_snr()[::-1]
    return float(np.interp(-2 * math.log(ratio), rising, range(len(rising) - 1, -1, -1)))


def edm_answer(state: Tensor, alpha: float, sigma: float) -> Tensor:
    """F of D = c_skip·y + c_out·F at y = x + s·ε (Karras et al. 2022, Table 1)."""
    d = EDM.sigma_data
    c_skip, c_out = d**2 / (sigma**2 + d**2), sigma * d / math.sqrt(sigma**2 + d**2)
    return (exact(state, alpha, sigma)[0] - c_skip * state) / c_out


def variance_preserving(ratio: float) -> tuple[float, float]:
    return 1 / math.hypot(1, ratio), ratio / math.hypot(1, ratio)


def flow(ratio: float) -> tuple[float, float]:
    return 1 / (1 + ratio), ratio / (1 + ratio)


def flow_answer(state: Tensor, alpha: float, sigma: float) -> Tensor:
    x, eps = exact(state, alpha, sigma)
    return eps - x


def v_answer(state: Tensor, alpha: float, sigma: float) -> Tensor:
    x, eps = exact(state, alpha, sigma)
    return alpha * eps - sigma * x


DISCRETE = TrailingGrid(schedule=LATENT)
FAMILIES = {
    "discrete, ε": Family(
        LATENT, DISCRETE, PredictionType.EPS, variance_preserving, index_of, lambda *asked: exact(*asked)[1]
    ),
    "discrete, v": Family(LATENT, DISCRETE, PredictionType.V, variance_preserving, index_of, v_answer),
    "discrete, x": Family(
        LATENT, DISCRETE, PredictionType.X, variance_preserving, index_of, lambda *asked: exact(*asked)[0]
    ),
    "flow": Family(FLOW, FlowGrid(shift=3), PredictionType.V, flow, lambda r: 1000 * r / (1 + r), flow_answer),
    "flow, reversed": Family(
        SIT, FlowGrid(), PredictionType.V, flow, lambda r: 1 / (1 + r), lambda *asked: -flow_answer(*asked)
    ),
    "EDM": Family(
        EDM, KarrasGrid(), PredictionType.V, lambda ratio: (1.0, ratio), lambda r: math.log(r) / 4, edm_answer
    ),
}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def ratio_of(t: float) -> float:
    return math.tan(t * math.pi / 2)


def velocity_at_our_boundary(family: Family) -> Velocity:
    """The family's exact network, asked as `Denoiser.velocity` asks it."""
    boundary = Boundary(family.schedule)

    def velocity(z: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = family.coefficients(ratio_of(t[0].item()))
        state = boundary.state(z, t)
        if isinstance(family.schedule, EDMSchedule):  # the network's input is c_in·y
            state = state * math.sqrt(sigma**2 + EDM.sigma_data**2)
        output = boundary.output(family.answer(state, alpha, sigma), z, t)
        return velocity_from_output(output, z, t, family.prediction)

    return velocity


@every_family
def test_the_network_of_any_family_is_the_one_velocity(family: Family) -> None:
    """Away from t = 1, where an ε-network says nothing of x, and a flow of ratio σ/α = ∞ is asked below."""
    velocity = velocity_at_our_boundary(family)
    for t in (0.01, 0.2, 0.5, 0.8, 0.95):
        times = torch.full((len(Z),), t, dtype=torch.float64)
        torch.testing.assert_close(velocity(Z, times), TWO_MODES.velocity(Z, times), rtol=0, atol=1e-12)


@every_family
def test_a_network_is_told_its_own_time(family: Family) -> None:
    times = torch.tensor([0.05, 0.2, 0.5, 0.8, 0.95], dtype=torch.float64)
    told = Boundary(family.schedule).time(times)
    wanted = [family.asked_with(ratio_of(t)) for t in times.tolist()]
    assert told.dtype == torch.float32
    assert told.tolist() == pytest.approx(wanted, rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("schedule", [FLOW, SIT, EDM], ids=["flow", "flow, reversed", "EDM"])
def test_states_and_velocities_are_finite_at_both_ends(schedule: NoiseSchedule) -> None:
    boundary, ends = Boundary(schedule), torch.tensor([0.0, 1.0])
    z, output = torch.ones(2, 1), torch.ones(2, 1)
    for value in (boundary.time(ends), boundary.state(z, ends), boundary.output(output, z, ends)):
        assert value.isfinite().all()


def own_sampler(family: Family, times: tuple[float, ...], z: Tensor) -> Tensor:
    """DDIM as the family's papers write it: the state of the next noise level has the same x̂ and ε̂."""
    alpha, sigma = _at(family, times[0])
    state = z * math.hypot(alpha, sigma)
    for t, s in pairwise(times):
        (alpha, sigma), (alpha_s, sigma_s) = _at(family, t), _at(family, s)
        output = family.answer(state, alpha, sigma)
        match family.schedule:
            case FlowSchedule() as schedule:  # Euler: dx/dτ = u
                state = state + (sigma_s - sigma) * (-output if schedule.reversed else output)
            case EDMSchedule():  # Euler: dy/ds = (y − D)/s
                x = exact(state, alpha, sigma)[0]
                state = state + (sigma_s - sigma) * (state - x) / sigma
            case _:
                x, eps = exact(state, alpha, sigma)
                state = alpha_s * x + sigma_s * eps
    return state


def _at(family: Family, t: float) -> tuple[float, float]:
    return (0.0, 1.0) if t == 1 else family.coefficients(ratio_of(t))


@every_family
@pytest.mark.parametrize("steps", [1, 2, 8])
def test_our_ddim_is_the_familys_own_sampler(family: Family, steps: int) -> None:
    times = family.grid.times(steps)
    if times[0] == 1:  # a flow's network at pure noise answers ε̂ − x̂ with x̂ the mean of the data
        velocity = velocity_of_pure_noise_or(velocity_at_our_boundary(family))
    else:
        velocity = velocity_at_our_boundary(family)
    assert (ddim(velocity, Z, times) - own_sampler(family, times, Z)).abs().max() < 1e-12


def velocity_of_pure_noise_or(velocity: Velocity) -> Velocity:
    """At t = 1 the ratio σ/α is infinite: TWO_MODES answers there."""
    return lambda z, t: TWO_MODES.velocity(z, t) if t[0] == 1 else velocity(z, t)


def stock_samples(scheduler: Any, z: Tensor, answer: Callable[[Tensor, float], Tensor], start: float) -> Tensor:
    """The loop of a pipeline: `answer` is the network, called with the scheduler's input and time."""
    state = z * start
    for timestep in scheduler.timesteps:
        asked = scheduler.scale_model_input(state, timestep) if hasattr(scheduler, "scale_model_input") else state
        state = scheduler.step(answer(asked, float(timestep)), timestep, state).prev_sample
    return state


def at_index(timestep: float) -> tuple[float, float]:
    alpha_bar = 1 / (1 + math.exp(-LATENT.log_snr()[round(timestep)]))
    return math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)


LATENT_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("name", ["discrete, ε", "discrete, v"])
def test_stock_ddim_goes_where_ours_does(name: str, steps: int) -> None:
    """Where N divides the number of indices; at N = 16 its previous index is off by one."""
    family = FAMILIES[name]
    scheduler = diffusers.DDIMScheduler(
        **LATENT_BETAS,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="epsilon" if family.prediction is PredictionType.EPS else "v_prediction",
    )
    scheduler.set_timesteps(steps)
    stock = stock_samples(scheduler, Z, lambda asked, k: family.answer(asked, *at_index(k)), 1.0)
    assert (stock - ddim(velocity_at_our_boundary(family), Z, family.grid.times(steps))).abs().max() < 2e-4


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16, 64])
@pytest.mark.parametrize("name", ["discrete, ε", "discrete, v"])
def test_stock_euler_goes_where_ours_does_at_any_number_of_steps(name: str, steps: int) -> None:
    family = FAMILIES[name]
    scheduler = diffusers.EulerDiscreteScheduler(
        **LATENT_BETAS,
        timestep_spacing="trailing",
        prediction_type="epsilon" if family.prediction is PredictionType.EPS else "v_prediction",
    )
    scheduler.set_timesteps(steps)
    start = math.hypot(1, float(scheduler.sigmas[0]))  # its own start is the noise times σ/α: 0.2 % less
    stock = stock_samples(scheduler, Z, lambda asked, k: family.answer(asked.double(), *at_index(k)), start)
    assert (stock - ddim(velocity_at_our_boundary(family), Z, family.grid.times(steps))).abs().max() < 2e-4


@pytest.mark.parametrize("steps", [1, 3, 4, 16])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_stock_flow_matching_goes_where_ours_does(steps: int, shift: float) -> None:
    family = FAMILIES["flow"]
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))

    def network(asked: Tensor, timestep: float) -> Tensor:
        tau = timestep / 1000
        return family.answer(asked.double(), 1 - tau, tau)

    velocity = velocity_of_pure_noise_or(velocity_at_our_boundary(family))
    ours = ddim(velocity, Z, FlowGrid(shift=shift).times(steps))
    assert (stock_samples(scheduler, Z, network, 1.0) - ours).abs().max() < 5e-6


@pytest.mark.parametrize("steps", [1, 4, 18])
def test_stock_edm_goes_where_ours_does(steps: int) -> None:
    family = FAMILIES["EDM"]
    scheduler = diffusers.EDMEulerScheduler()
    scheduler.set_timesteps(steps)

    def network(asked: Tensor, c_noise: float) -> Tensor:
        s = math.exp(4 * c_noise)
        return edm_answer(asked.double() * math.sqrt(s**2 + EDM.sigma_data**2), 1.0, s)

    stock = stock_samples(scheduler, Z, network, scheduler.init_noise_sigma)
    assert (stock - ddim(velocity_at_our_boundary(family), Z, KarrasGrid().times(steps))).abs().max() < 1e-4


@pytest.mark.parametrize("weight", LossWeight)
def test_loss_weights_in_terms_of_a_flow(weight: LossWeight) -> None:
    """Times ‖u − u*‖²: (1 − τ)², max((1 − τ)², τ²), (1 − τ)² + τ²."""
    tau = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    t = torch.atan2(tau, 1 - tau) / (math.pi / 2)
    z, output, wanted = (torch.randn(5, 3, dtype=torch.float64) for _ in range(3))
    boundary = Boundary(FLOW)
    v, v_wanted = (boundary.output(u, z, t) for u in (output, wanted))
    loss = weighted_loss(v, v_wanted, z, t, PredictionType.V, weight)
    factor = {
        LossWeight.SNR: (1 - tau) ** 2,
        LossWeight.TRUNCATED_SNR: torch.maximum((1 - tau) ** 2, tau**2),
        LossWeight.SNR_PLUS_ONE: (1 - tau) ** 2 + tau**2,
    }[weight]
    torch.testing.assert_close(loss, factor * (output - wanted).square().mean(1), rtol=1e-7, atol=1e-7)
