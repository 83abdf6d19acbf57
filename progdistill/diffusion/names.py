"""The names of choices in the mathematics, and which of them go together: no torch."""

from enum import StrEnum

from progdistill.errors import UsageError


class PredictionType(StrEnum):
    """What the network's output stands for (section 4)."""

    X = "x"
    V = "v"
    EPS = "eps"
    X_EPS = "x_eps"


class LossWeight(StrEnum):
    """How the reconstruction loss is weighted over the log-SNR (section 4)."""

    SNR = "snr"
    TRUNCATED_SNR = "truncated_snr"
    SNR_PLUS_ONE = "snr_plus_one"


class SamplerName(StrEnum):
    """How a denoiser is turned into samples."""

    DDIM = "ddim"
    ANCESTRAL = "ancestral"


def check_combination(prediction: PredictionType, weight: LossWeight, distilling: bool) -> None:
    """Refuse what the paper found not to work.

    Raises UsageError for ε-prediction with the truncated-SNR weight (Table 1: it diverges), and for
    distilling into an ε-predicting student (section 4: at zero signal-to-noise ratio ε̂ says nothing about x).
    """
    if prediction is PredictionType.EPS and weight is LossWeight.TRUNCATED_SNR:
        raise UsageError(
            "prediction eps with loss weight truncated_snr diverges (Salimans & Ho 2022, Table 1):"
            " choose snr or snr_plus_one, or prediction x, v or x_eps"
        )
    if distilling and prediction is PredictionType.EPS:
        raise UsageError(
            "an eps-predicting student cannot be distilled to few steps: at zero signal-to-noise ratio eps no"
            " longer determines x (Salimans & Ho 2022, section 4): set distill.prediction to v, x or x_eps"
        )
    if distilling and weight is LossWeight.SNR:
        raise UsageError(
            "loss weight snr is zero at t = 1, where few-step students start (Salimans & Ho 2022, section 4):"
            " choose truncated_snr or snr_plus_one for distillation"
        )
