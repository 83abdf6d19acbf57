"""The best variance of ancestral sampling for each number of steps (App. F)."""

from progdistill.artifacts.checkpoint import CheckpointManifest
from progdistill.artifacts.store import Store
from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.names import SamplerName
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.examiner import Examiner


def gamma_grid(values: int) -> list[float]:
    """γ from 0 to 1 in even steps: variances spaced log-uniformly from the lower bound to the upper."""
    return [place / (values - 1) for place in range(values)]


def settings_of_trials(settings: EvaluationSettings, steps: int) -> EvaluationSettings | None:
    """How each γ is tried; None where nothing is tuned. A single step draws no noise: it has no γ."""
    if settings.tuned_gammas == 0 or steps == 1:
        return None
    return settings.model_copy(
        update={
            "seed": settings.tuning_seed,
            "samples": settings.tuning_samples or settings.samples,
            "shown_samples": 0,
        }
    )


def best_gamma(
    store: Store,
    settings: EvaluationSettings,
    info: DatasetInfo,
    checkpoint: CheckpointManifest,
    steps: int,
    *,
    device: str,
) -> float:
    """The γ of the least distance over the grid, on noise of its own; `ancestral_gamma` if nothing is tuned.

    What is reported is another measurement, on the noise of all others: the best of eleven on the same noise
    would be too good. Each trial is a measurement in the store, reused by later runs.
    """
    trials = settings_of_trials(settings, steps)
    if trials is None:
        return settings.ancestral_gamma
    examiner = Examiner(store, trials, info, device)
    distances = {
        gamma: examiner.answer(checkpoint, SamplerName.ANCESTRAL, steps, gamma).distance
        for gamma in gamma_grid(settings.tuned_gammas)
    }
    return min(distances, key=distances.__getitem__)
