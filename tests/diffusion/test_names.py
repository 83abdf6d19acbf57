"""The names users type, and the combinations that the paper rules out."""

import subprocess
import sys

import pytest

from progdistill.diffusion.names import LossWeight, PredictionType, SamplerName, check_combination
from progdistill.errors import UsageError

E, W = PredictionType.EPS, LossWeight


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


def test_names_are_read_without_importing_torch() -> None:
    code = "import sys, progdistill.diffusion.names; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"
