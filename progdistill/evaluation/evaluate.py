"""A checkpoint beside its baselines at equal steps, sample counts and noise: one x of Figure 4."""

from collections.abc import Iterator
from typing import NamedTuple

from progdistill.artifacts.checkpoint import CheckpointKind, CheckpointManifest
from progdistill.artifacts.store import Store
from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.names import SamplerName
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.evaluator_manifest import EvaluatorManifest
from progdistill.evaluation.examiner import Examiner
from progdistill.evaluation.gamma_tuning import best_gamma
from progdistill.evaluation.measurement import EvaluationRecord
from progdistill.evaluation.neighbours import neighbours_of


def prepare_evaluator(
    store: Store, settings: EvaluationSettings, info: DatasetInfo, *, device: str = "cpu"
) -> EvaluatorManifest:
    """Make sure that the store has the evaluator and what the real images look like to it.

    Worth doing once before stages are evaluated side by side, which would each do it otherwise.
    """
    examiner = Examiner(store, settings, info, device)
    examiner.load()
    return examiner.evaluator_manifest


def evaluate_checkpoint(
    store: Store,
    manifest: CheckpointManifest,
    baseline: CheckpointManifest | None,
    num_steps: int,
    settings: EvaluationSettings,
    info: DatasetInfo,
    *,
    device: str = "cpu",
) -> EvaluationRecord:
    """Measure a checkpoint at `num_steps`, and the undistilled `baseline` with DDIM and ancestral sampling.

    Every measurement is published under `evaluations/<checkpoint id>/` and never repeated: whoever asks the
    same later, in another run too, gets the first answer. A checkpoint that takes more than
    `settings.max_sampling_steps` is left out, and the record says so.
    """
    record = EvaluationRecord(checkpoint_id=manifest.id, kind=manifest.identity.kind, num_steps=num_steps)
    if num_steps > settings.max_sampling_steps:
        limit = f"evaluation.max_sampling_steps = {settings.max_sampling_steps}"
        return record.model_copy(
            update={"not_evaluated_reason": f"{num_steps} sampling steps are more than {limit}"}
        )
    examiner = Examiner(store, settings, info, device)
    asked = _asked(store, manifest, baseline, num_steps, settings, info, device)
    answers = {a.field: examiner.answer(a.checkpoint, a.sampler, num_steps, a.gamma) for a in asked}
    shown = answers["distilled"].shown
    if shown is None or num_steps not in settings.neighbours_at_steps:
        return record.model_copy(update=answers)
    return record.model_copy(update={**answers, "neighbours": neighbours_of(store, shown, info)})


def draw_share(
    store: Store,
    manifest: CheckpointManifest,
    baseline: CheckpointManifest | None,
    num_steps: int,
    settings: EvaluationSettings,
    info: DatasetInfo,
    *,
    rank: int,
    ranks: int,
    device: str = "cpu",
) -> None:
    """Draw one rank's share of what `evaluate_checkpoint` needs; call that once all ranks are done.

    Shards do not depend on the number of ranks, so neither do the figures. A finished
    shard is kept in the store: an attempt that was cut off goes on behind it.
    """
    if num_steps > settings.max_sampling_steps:
        return
    examiner = Examiner(store, settings, info, device)
    for _, checkpoint, sampler, gamma in _asked(store, manifest, baseline, num_steps, settings, info, device):
        examiner.draw_share(checkpoint, sampler, num_steps, gamma, rank=rank, ranks=ranks)


class _Asked(NamedTuple):
    """One measurement of a record: the record's field, and what to sample how."""

    field: str
    checkpoint: CheckpointManifest
    sampler: SamplerName
    gamma: float | None = None


def _asked(
    store: Store,
    manifest: CheckpointManifest,
    baseline: CheckpointManifest | None,
    num_steps: int,
    settings: EvaluationSettings,
    info: DatasetInfo,
    device: str,
) -> Iterator[_Asked]:
    def ancestral(field: str, checkpoint: CheckpointManifest) -> _Asked:
        gamma = best_gamma(store, settings, info, checkpoint, num_steps, device=device)
        return _Asked(field, checkpoint, SamplerName.ANCESTRAL, gamma)

    yield _Asked("distilled", manifest, SamplerName.DDIM)
    if baseline is not None:
        yield _Asked("baseline_ddim", baseline, SamplerName.DDIM)
        yield ancestral("baseline_ancestral", baseline)
    if settings.stochastic_students and manifest.identity.kind is CheckpointKind.STUDENT:
        yield ancestral("distilled_ancestral", manifest)
