"""Evaluates a checkpoint beside its baselines."""

from collections.abc import Callable, Sequence

from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.names import SamplerName
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.measurement import EvaluationRecord
from progdistill.evaluation.nearest import neighbors_of
from progdistill.evaluation.plan import PlannedMeasurement, ddim_plan, guided_as, sampled_ancestrally
from progdistill.evaluation.runner import MeasurementRunner
from progdistill.features.manifest import EvaluatorManifest
from progdistill.registry.checkpoint import CheckpointManifest
from progdistill.store.base import Store


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
    examiner = MeasurementRunner(store, trials, info, device, trial=True)
    distances = {
        gamma: examiner.answer(checkpoint, SamplerName.ANCESTRAL, steps, gamma).distance
        for gamma in gamma_grid(settings.tuned_gammas)
    }
    return min(distances, key=distances.__getitem__)


def prepare_evaluator(
    store: Store, settings: EvaluationSettings, info: DatasetInfo, *, device: str = "cpu"
) -> EvaluatorManifest:
    """Make sure that the store has the evaluator and what the real images look like to it.

    Worth doing once before stages are evaluated side by side, which would each do it otherwise.
    """
    examiner = MeasurementRunner(store, settings, info, device)
    examiner.load()
    return examiner.evaluator_manifest


def evaluate_checkpoint(
    store: Store,
    manifest: CheckpointManifest,
    baseline: CheckpointManifest | None,
    sampling_steps: int,
    settings: EvaluationSettings,
    info: DatasetInfo,
    *,
    device: str = "cpu",
) -> EvaluationRecord:
    """Measure a checkpoint at `sampling_steps`, and the undistilled `baseline`, with DDIM and ancestrally.

    Where the checkpoint is guided, a baseline that can be is guided alike. Every measurement is published
    under `evaluations/<checkpoint id>/` and never repeated: whoever asks the same later, in another run too,
    gets the first answer. A checkpoint that takes more than `settings.max_sampling_steps` is left out, and
    the record says so.
    """
    record = EvaluationRecord(
        checkpoint_id=manifest.id, kind=manifest.identity.kind, sampling_steps=sampling_steps
    )
    if sampling_steps > settings.max_sampling_steps:
        limit = f"evaluation.max_sampling_steps = {settings.max_sampling_steps}"
        return record.model_copy(
            update={"not_evaluated_reason": f"{sampling_steps} sampling steps are more than {limit}"}
        )
    settings = guided_as(manifest, settings)
    examiner = MeasurementRunner(store, settings, info, device)
    asked = ddim_plan(manifest, baseline)
    for field, checkpoint in sampled_ancestrally(manifest, baseline, settings):
        gamma = best_gamma(store, settings, info, checkpoint, sampling_steps, device=device)
        asked.append(PlannedMeasurement(field, checkpoint, SamplerName.ANCESTRAL, gamma))
    answers = {a.field: examiner.answer(a.checkpoint, a.sampler, sampling_steps, a.gamma) for a in asked}
    shown = answers["distilled"].shown
    if shown is None or sampling_steps not in settings.neighbors_at_steps:
        return record.model_copy(update=answers)
    return record.model_copy(update={**answers, "neighbors": neighbors_of(store, shown, info)})


Meet = Callable[[], None]


class RoundRobin:
    """Hands out shards in turn, going on where it stopped: so a few shards of many questions are even too."""

    def __init__(self, rank: int, world_size: int) -> None:
        self._rank, self._ranks, self._dealt = rank, world_size, 0

    def mine(self, shards: Sequence[range]) -> list[range]:
        """This rank's part of some shards."""
        first = (self._rank - self._dealt) % self._ranks
        self._dealt += len(shards)
        return list(shards[first :: self._ranks])


def sample_distributed(
    store: Store,
    manifest: CheckpointManifest,
    baseline: CheckpointManifest | None,
    sampling_steps: int,
    settings: EvaluationSettings,
    info: DatasetInfo,
    *,
    rank: int,
    world_size: int,
    meet: Meet,
    device: str = "cpu",
) -> None:
    """Draw this rank's share of what `evaluate_checkpoint` needs; all ranks call it with equal arguments.

    `meet` returns when every rank has called it. Shards do not depend on the number of ranks, so neither do
    the figures of whoever adds up afterward. A finished shard is kept in the store: an attempt that was cut
    off goes on behind it.
    """
    if sampling_steps > settings.max_sampling_steps:
        return
    settings = guided_as(manifest, settings)
    if rank == 0:
        MeasurementRunner(store, settings, info, device).load()
    meet()
    deal, examiner = RoundRobin(rank, world_size), MeasurementRunner(store, settings, info, device)

    def draw(by: MeasurementRunner, asked: PlannedMeasurement) -> None:
        by.draw(asked.checkpoint, asked.sampler, sampling_steps, asked.gamma, deal.mine)

    # A base model is its own baseline: one question.
    for asked in {a.checkpoint.id: a for a in ddim_plan(manifest, baseline)}.values():
        draw(examiner, asked)
    ancestral = sampled_ancestrally(manifest, baseline, settings)
    trials = settings_of_trials(settings, sampling_steps)
    if trials is not None:
        tuner = MeasurementRunner(store, trials, info, device, trial=True)
        for field, checkpoint in ancestral:
            for gamma in gamma_grid(settings.tuned_gammas):
                draw(tuner, PlannedMeasurement(field, checkpoint, SamplerName.ANCESTRAL, gamma))
        meet()
        if rank == 0:
            for _, checkpoint in ancestral:
                best_gamma(store, settings, info, checkpoint, sampling_steps, device=device)
        meet()
    for field, checkpoint in ancestral:
        gamma = best_gamma(store, settings, info, checkpoint, sampling_steps, device=device)
        draw(examiner, PlannedMeasurement(field, checkpoint, SamplerName.ANCESTRAL, gamma))
    meet()
