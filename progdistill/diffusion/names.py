"""The names of what a user may choose, and which choices the paper rules out. Imports no torch."""

from enum import StrEnum

from progdistill.errors import UsageError


class PredictionType(StrEnum):
    """What the network's output means (section 4)."""

    X = "x"
    V = "v"
    EPS = "eps"
    X_EPS = "x_eps"


class LossWeight(StrEnum):
    """The weight w(λ_t) of the reconstruction error ‖x − x̂‖² (eq. 2, section 4)."""

    SNR = "snr"
    TRUNCATED_SNR = "truncated_snr"
    SNR_PLUS_ONE = "snr_plus_one"


class SamplerName(StrEnum):
    """How samples are drawn from a velocity; `samplers.SAMPLERS` holds the function of each."""

    DDIM = "ddim"
    ANCESTRAL = "ancestral"
    EULER = "euler"
    HEUN = "heun"
    RK4 = "rk4"
    DPM_SOLVER = "dpm_solver"


def check_combination(prediction: PredictionType, weight: LossWeight, distilling: bool) -> None:
    """Raise UsageError, with the paper's reason, where training would fail (`distilling`: a student's)."""
    if prediction is PredictionType.EPS and weight is LossWeight.TRUNCATED_SNR:
        raise UsageError(
            "prediction 'eps' with loss weight 'truncated_snr' diverges (Table 1 of the paper):"
            " choose weight 'snr' or 'snr_plus_one', or prediction 'v', 'x' or 'x_eps'"
        )
    if distilling and prediction is PredictionType.EPS:
        raise UsageError(
            "prediction 'eps' cannot be distilled: as α → 0 an error in ε̂ grows by 1/α in x̂, and at t = 1 ε̂"
            " says nothing of x (section 4 of the paper): let the student predict 'v', 'x' or 'x_eps';"
            " its teacher may predict 'eps'"
        )
    if distilling and weight is LossWeight.SNR:
        raise UsageError(
            "loss weight 'snr' cannot be used in distillation: it gives no weight at t = 1, the only time"
            " that a one-step student sees (section 4 of the paper): choose 'truncated_snr' or 'snr_plus_one'"
        )
