"""Names that users choose from, and the combinations that the paper rules out."""

import math
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


class ObjectiveName(StrEnum):
    """What a student learns from its teacher."""

    PROGRESSIVE = "progressive"
    """Its step lands where steps of its teacher do (Algorithm 2)."""
    TRACT = "tract"
    """It jumps to the end of its step from each time of its teacher's steps (Berthelot et al. 2023)."""
    CONSISTENCY = "consistency"
    """As TRACT, with teacher's steps that grow shorter, and itself instead of its average (Heek et al. 2024)."""


class TeacherSolver(StrEnum):
    """How a teacher that samples with any number of steps does one."""

    DDIM = "ddim"
    HEUN = "heun"
    ADDIM = "addim"


class LossName(StrEnum):
    """The loss of the weighted error √w·(x − x̂)."""

    SQUARED = "squared"
    PSEUDO_HUBER = "pseudo_huber"
    L1 = "l1"


class SamplerName(StrEnum):
    """The samplers; `samplers.SAMPLERS` has their functions."""

    DDIM = "ddim"
    ANCESTRAL = "ancestral"
    EULER = "euler"
    HEUN = "heun"
    RK4 = "rk4"
    DPM_SOLVER = "dpm_solver"


SMALLEST_ALPHA_FOR_EPS_STUDENTS = 0.05
"""Of a student's first time; Stable Diffusion's schedule ends at 0.068. See docs/mathematics.md for a measurement."""


def check_combination(
    prediction: PredictionType, loss_weight: LossWeight, distilling: bool, first_time: float = 1.0
) -> None:
    """Check that training with these choices can work.

    Args:
        prediction: Of the network to train.
        loss_weight: Of its loss.
        distilling: Whether the network is a student.
        first_time: The noisy end of a student's grid, in (0, 1].

    Raises:
        UsageError: With the paper's reason why it cannot.
    """
    if prediction is PredictionType.EPS and loss_weight is LossWeight.TRUNCATED_SNR:
        raise UsageError(
            "prediction 'eps' with loss weight 'truncated_snr' diverges (Table 1 of the paper):"
            " choose loss weight 'snr' or 'snr_plus_one', or prediction 'v', 'x' or 'x_eps'"
        )
    if not distilling:
        return
    if prediction is PredictionType.EPS and math.cos(first_time * math.pi / 2) < SMALLEST_ALPHA_FOR_EPS_STUDENTS:
        raise UsageError(
            "prediction 'eps' cannot be distilled on this grid: as α → 0 an error in ε̂ grows by 1/α in x̂, and at"
            " t = 1 ε̂ says nothing of x (section 4 of the paper): let the student predict 'v', 'x' or 'x_eps';"
            " its teacher may predict 'eps'"
        )
    if loss_weight is LossWeight.SNR and first_time == 1:
        raise UsageError(
            "loss weight 'snr' cannot be used in distillation on this grid: it is 0 at t = 1, the only time"
            " that a one-step student sees (section 4 of the paper): choose 'truncated_snr' or 'snr_plus_one'"
        )
