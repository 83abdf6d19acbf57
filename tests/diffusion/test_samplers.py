"""Properties of every sampler, whatever its method."""

import inspect
import math

import pytest
import torch
from torch import Tensor

from progdistill.diffusion.grid import AngleGrid
from progdistill.diffusion.names import PredictionType, SamplerName
from progdistill.diffusion.prediction import clipped, velocity_from_output, x_from_velocity
from progdistill.diffusion.samplers import SAMPLERS
from progdistill.errors import UsageError
from tests.diffusion.closed_forms import TWO_MODES, gaussian

every_sampler = pytest.mark.parametrize("name", SamplerName)
deterministic = pytest.mark.parametrize("name", [n for n in SamplerName if n is not SamplerName.ANCESTRAL])
Z = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None]
even = AngleGrid().times


def noise_like(z: Tensor) -> Tensor:
    return torch.randn(z.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(z.dtype)


def test_every_name_has_a_sampler_with_the_one_signature() -> None:
    assert set(SAMPLERS) == set(SamplerName)
    shapes = {
        tuple((p.name, p.kind, p.default) for p in inspect.signature(sampler).parameters.values())
        for sampler in SAMPLERS.values()
    }
    assert len(shapes) == 1


@every_sampler
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 8, 100])
def test_the_velocity_is_asked_from_t_1_down_and_never_at_t_0(name: SamplerName, steps: int) -> None:
    asked: list[float] = []

    def velocity(z: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (21,)
        assert t.unique().numel() == 1
        asked.append(t[0].item())
        return TWO_MODES.velocity(z, t)

    x = SAMPLERS[name](velocity, Z, even(steps), noise=lambda step: noise_like(Z))
    assert x.isfinite().all()
    assert asked[0] == 1
    assert asked == sorted(asked, reverse=True)
    assert min(asked) >= 1 / (3 * steps) - 1e-12


@every_sampler
@pytest.mark.parametrize("prediction", PredictionType)
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 5, 32])
def test_an_untrained_network_of_any_type_gives_finite_samples(
    name: SamplerName, prediction: PredictionType, clip: bool, steps: int
) -> None:
    """In float32, from outputs that know nothing of z: the hard case for divisions by α and σ."""

    def velocity(z: Tensor, t: Tensor) -> Tensor:
        output = torch.sin(37 * torch.arange(2.0 * prediction.output_multiplier)) + 0 * z[:, :1]
        return velocity_from_output(output, z, t, prediction)

    z = torch.linspace(-2, 2, 8).reshape(4, 2)
    x = SAMPLERS[name](clipped(velocity) if clip else velocity, z, even(steps), noise=lambda step: noise_like(z))
    assert x.dtype == torch.float32
    assert x.isfinite().all()


@every_sampler
def test_a_bfloat16_model_moves_a_float32_state(name: SamplerName) -> None:
    z = Z.float()
    states: list[torch.dtype] = []

    def velocity(z: Tensor, t: Tensor) -> Tensor:
        states.append(z.dtype)
        return TWO_MODES.velocity(z.double(), t.double()).bfloat16()

    rough = SAMPLERS[name](velocity, z, even(16), noise=lambda step: noise_like(z))
    exact = SAMPLERS[name](TWO_MODES.velocity, Z, even(16), noise=lambda step: noise_like(Z))
    assert set(states) == {torch.float32}
    assert (rough - exact).abs().max() < 0.02


@every_sampler
def test_everything_happens_on_the_device_of_z(name: SamplerName) -> None:
    def velocity(z: Tensor, t: Tensor) -> Tensor:
        assert z.device == t.device == torch.device("meta")
        return z

    z = torch.empty(4, 3, 8, 8, device="meta")
    x = SAMPLERS[name](clipped(velocity), z, even(3), noise=lambda step: torch.empty_like(z))
    assert (x.device, x.shape, x.dtype) == (z.device, z.shape, z.dtype)


@deterministic
def test_deterministic_samplers_draw_nothing_and_ignore_gamma(name: SamplerName) -> None:
    def refuse(step: int) -> Tensor:
        raise AssertionError("noise was drawn")

    plain = SAMPLERS[name](TWO_MODES.velocity, Z, even(5))
    assert torch.equal(SAMPLERS[name](TWO_MODES.velocity, Z, even(5), noise=refuse, gamma=0.7), plain)


def test_ancestral_sampling_draws_noise_in_every_step_but_the_last() -> None:
    drawn: list[int] = []

    def noise(step: int) -> Tensor:
        drawn.append(step)
        return noise_like(Z)

    SAMPLERS[SamplerName.ANCESTRAL](TWO_MODES.velocity, Z, even(5), noise=noise)
    assert drawn == [0, 1, 2, 3]
    with pytest.raises(UsageError, match="noise="):
        SAMPLERS[SamplerName.ANCESTRAL](TWO_MODES.velocity, Z, even(5))


def test_clipping_moves_x_into_range_and_recomputes_eps() -> None:
    """The clipped velocity still explains z: z = α·clip(x̂) + σ·ε̂ with ε̂ = (z − α·clip(x̂))/σ."""
    wide = gaussian(0.0, 2.0)
    t = torch.linspace(0.05, 1, 21, dtype=torch.float64)
    v, raw = clipped(wide.velocity)(Z, t), wide.velocity(Z, t)
    x, raw_x = x_from_velocity(v, Z, t), x_from_velocity(raw, Z, t)
    assert raw_x.abs().max() > 1.2
    torch.testing.assert_close(x, raw_x.clamp(-1, 1))
    alpha, sigma = torch.cos(t * math.pi / 2)[:, None], torch.sin(t * math.pi / 2)[:, None]
    torch.testing.assert_close(v, alpha * (Z - alpha * raw_x.clamp(-1, 1)) / sigma - sigma * x)
    inside = raw_x.abs() <= 1
    assert inside.any()
    assert torch.equal(v[inside], raw[inside])


@pytest.mark.parametrize("name", [SamplerName.DDIM, SamplerName.ANCESTRAL, SamplerName.DPM_SOLVER])
def test_samplers_that_end_at_x_end_in_range_when_clipping(name: SamplerName) -> None:
    wide = gaussian(0.0, 2.0)
    free, tame = (
        SAMPLERS[name](velocity, Z, even(8), noise=lambda step: noise_like(Z))
        for velocity in (wide.velocity, clipped(wide.velocity))
    )
    assert free.abs().max() > 1.2
    assert tame.abs().max() <= 1 + 1e-12


@every_sampler
def test_clipping_changes_nothing_where_nothing_is_out_of_range(name: SamplerName) -> None:
    narrow = gaussian(0.1, 0.2)
    free, clipping = (
        SAMPLERS[name](velocity, Z, even(8), noise=lambda step: 0.5 * noise_like(Z))
        for velocity in (narrow.velocity, clipped(narrow.velocity))
    )
    assert torch.equal(free, clipping)


@every_sampler
def test_a_sample_does_not_depend_on_the_rest_of_its_batch(name: SamplerName) -> None:
    noise = noise_like(Z)
    together = SAMPLERS[name](TWO_MODES.velocity, Z, even(6), noise=lambda step: noise)
    alone = SAMPLERS[name](TWO_MODES.velocity, Z[3:5], even(6), noise=lambda step: noise[3:5])
    assert (together[3:5] - alone).abs().max() < 1e-14
