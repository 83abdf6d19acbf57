"""Names that users choose from, and the combinations that the paper rules out."""

from enum import StrEnum

from progdistill.errors import UsageError


class PredictionType(StrEnum):
    """What the network's output means (section 4)."""

    X = "x"
    V = "v"
    EPS = "eps"
    X_EPS = "x_eps"

    @property
    def output_multiplier(self) -> int:
        """Output channels per image channel: 2 for (x, ε), 1 for other predictions."""
        return 2 if self is PredictionType.X_EPS else 1


class LossWeight(StrEnum):
    """The weight w(λ_t) of the reconstruction error ‖x − x̂‖² (eq. 2, section 4)."""

    SNR = "snr"
    TRUNCATED_SNR = "truncated_snr"
    SNR_PLUS_ONE = "snr_plus_one"


class SamplerName(StrEnum):
    """The samplers; `samplers.SAMPLERS` has their functions."""

    DDIM = "ddim"
    ANCESTRAL = "ancestral"
    EULER = "euler"
    HEUN = "heun"
    RK4 = "rk4"
    DPM_SOLVER = "dpm_solver"


def check_combination(prediction: PredictionType, loss_weight: LossWeight, distilling: bool) -> None:
    """Check that training with these choices can work.

    Args:
        prediction: Of the network to train.
        loss_weight: Of its loss.
        distilling: Whether the network is a student.

    Raises:
        UsageError: With the paper's reason why it cannot.
    """
    if prediction is PredictionType.EPS and loss_weight is LossWeight.TRUNCATED_SNR:
        raise UsageError(
            "prediction 'eps' with loss weight 'truncated_snr' diverges (Table 1 of the paper):"
            " choose loss weight 'snr' or 'snr_plus_one', or prediction 'v', 'x' or 'x_eps'"
        )
    if distilling and prediction is PredictionType.EPS:
        raise UsageError(
            "prediction 'eps' cannot be distilled: as α → 0 an error in ε̂ grows by 1/α in x̂, and at t = 1 ε̂"
            " says nothing of x (section 4 of the paper): let the student predict 'v', 'x' or 'x_eps';"
            " its teacher may predict 'eps'"
        )
    if distilling and loss_weight is LossWeight.SNR:
        raise UsageError(
            "loss weight 'snr' cannot be used in distillation: it is 0 at t = 1, the only time"
            " that a one-step student sees (section 4 of the paper): choose 'truncated_snr' or 'snr_plus_one'"
        )
