"""The names users type, and the combinations that the paper rules out."""

import subprocess
import sys

import pytest

from progdistill.diffusion.grid import TrailingGrid
from progdistill.diffusion.names import LossWeight, PredictionType, SamplerName, check_combination
from progdistill.diffusion.noise_schedules import DiscreteSchedule
from progdistill.errors import UsageError

E, W = PredictionType.EPS, LossWeight
LATENT = DiscreteSchedule(kind="scaled_linear", beta_start=0.00085, beta_end=0.012)


def test_names_are_what_users_type() -> None:
    assert [*PredictionType] == ["x", "v", "eps", "x_eps"]
    assert [*LossWeight] == ["snr", "truncated_snr", "snr_plus_one"]
    assert [*SamplerName] == ["ddim", "ancestral", "euler", "heun", "rk4", "dpm_solver"]


@pytest.mark.parametrize(
    ("prediction", "weight", "distilling", "reason"),
    [
        (E, W.TRUNCATED_SNR, False, "Table 1"),
        (E, W.TRUNCATED_SNR, True, "Table 1"),
        (E, W.SNR_PLUS_ONE, True, "section 4"),
        (E, W.SNR, True, "section 4"),
        *((prediction, W.SNR, True, "section 4") for prediction in PredictionType if prediction is not E),
    ],
)
def test_what_the_paper_rules_out_is_refused_with_its_reason(
    prediction: PredictionType, weight: LossWeight, distilling: bool, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason) as refusal:
        check_combination(prediction, weight, distilling)
    assert f"'{weight}'" in str(refusal.value) or f"'{prediction}'" in str(refusal.value)


@pytest.mark.parametrize(("distilling", "count"), [(False, 11), (True, 6)])
def test_everything_else_is_allowed(distilling: bool, count: int) -> None:
    def allowed(prediction: PredictionType, weight: LossWeight) -> bool:
        try:
            check_combination(prediction, weight, distilling)
        except UsageError:
            return False
        return True

    assert sum(allowed(prediction, weight) for prediction in PredictionType for weight in LossWeight) == count


SD_END = TrailingGrid(schedule=LATENT).times(1)[0]
DDPM_END = TrailingGrid(schedule=DiscreteSchedule(kind="linear")).times(1)[0]


def test_on_a_grid_whose_noisy_end_still_shows_x_more_is_allowed() -> None:
    """Stable Diffusion's schedule ends at α = 0.068, that of Ho et al. (2020) at 0.006."""
    for weight in (W.SNR, W.SNR_PLUS_ONE):
        check_combination(E, weight, distilling=True, first_time=SD_END)
        check_combination(PredictionType.V, weight, distilling=True, first_time=DDPM_END)
        with pytest.raises(UsageError, match="'eps' cannot be distilled on this grid"):
            check_combination(E, weight, distilling=True, first_time=DDPM_END)
    with pytest.raises(UsageError, match="Table 1"):
        check_combination(E, W.TRUNCATED_SNR, distilling=True, first_time=SD_END)


def test_names_are_read_without_importing_torch() -> None:
    code = "import sys, progdistill.diffusion.names; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"
