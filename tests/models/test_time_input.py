"""Foreign schedules: their log-SNR, and the index at which a foreign network is evaluated."""

import diffusers
import pytest
import torch

from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.noise_schedules import DiscreteSchedule
from progdistill.diffusion.schedule import time_of_log_snr
from progdistill.models.boundary import Boundary
from progdistill.models.config import DenoiserConfig
from tests.models.conftest import MakeDenoiser

SCHEDULES = [
    DiscreteSchedule(kind="linear"),
    DiscreteSchedule(kind="scaled_linear", beta_start=0.00085, beta_end=0.012),
    DiscreteSchedule(kind="squaredcos_cap_v2"),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.kind)
def test_log_snr_is_that_of_diffusers(schedule: DiscreteSchedule) -> None:
    scheduler = diffusers.DDIMScheduler(
        beta_schedule=schedule.kind, beta_start=schedule.beta_start, beta_end=schedule.beta_end
    )
    alpha_bar = scheduler.alphas_cumprod.double()
    expected = (alpha_bar / (1 - alpha_bar)).log()
    # diffusers multiplies 1,000 factors in float32.
    torch.testing.assert_close(torch.tensor(schedule.log_snr(), dtype=torch.float64), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.kind)
def test_the_time_of_an_index_is_read_as_that_index(schedule: DiscreteSchedule) -> None:
    times = time_of_log_snr(torch.tensor(schedule.log_snr(), dtype=torch.float64))
    indices = Boundary(schedule).time(times)
    torch.testing.assert_close(indices, torch.arange(1000.0), rtol=0, atol=2e-3)


def test_between_indices_the_index_rises_with_time() -> None:
    times = torch.linspace(0.02, 0.98, 4001, dtype=torch.float64)
    indices = Boundary(SCHEDULES[2]).time(times)
    assert (indices.diff() > 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.kind)
def test_outside_the_foreign_range_the_nearest_index_is_asked(schedule: DiscreteSchedule) -> None:
    reader = Boundary(schedule)
    assert reader.time(torch.tensor([0.0, 1.0])).tolist() == [0.0, 999.0]
    first, last = reader.nearest_known(torch.tensor([0.0, 1.0])).tolist()
    assert 0 < first < 0.05
    assert 0.9 < last < 1


def test_a_foreign_eps_model_has_a_finite_velocity_at_both_ends(make_denoiser: MakeDenoiser) -> None:
    denoiser = make_denoiser(PredictionType.EPS, SCHEDULES[0])
    z, t = torch.randn(2, 1, 8, 8), torch.tensor([0.0, 1.0])
    with torch.no_grad():
        velocity = denoiser.velocity(z, t, {"label": torch.tensor([1, 2])})
        nearest = denoiser.velocity(z, denoiser.boundary.nearest_known(t), {"label": torch.tensor([1, 2])})
    assert velocity.isfinite().all()
    # ε̂ is divided by an α of 0.006: rounding of the time shows.
    torch.testing.assert_close(velocity, nearest, rtol=0.02, atol=0.02)


def test_a_foreign_schedule_survives_json_in_a_few_numbers(make_denoiser: MakeDenoiser) -> None:
    config = make_denoiser(PredictionType.EPS, SCHEDULES[1]).config
    text = config.model_dump_json()
    assert DenoiserConfig.model_validate_json(text) == config
    assert len(text) < 1000


def test_the_table_of_a_foreign_schedule_is_no_weight(make_denoiser: MakeDenoiser) -> None:
    foreign = make_denoiser(PredictionType.EPS, SCHEDULES[0])
    assert foreign.state_dict().keys() == make_denoiser().state_dict().keys()
