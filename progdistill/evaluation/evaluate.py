"""A checkpoint beside its baselines at equal steps, sample counts and noise: one x of Figure 4."""

from progdistill.artifacts.checkpoint import CheckpointManifest
from progdistill.artifacts.store import Store
from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.names import SamplerName
from progdistill.evaluation.asked import Asked, ddim_asked, guided_as, sampled_ancestrally
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

    Where the checkpoint is guided, a baseline that can be is guided alike. Every measurement is published
    under `evaluations/<checkpoint id>/` and never repeated: whoever asks the same later, in another run too,
    gets the first answer. A checkpoint that takes more than `settings.max_sampling_steps` is left out, and
    the record says so.
    """
    record = EvaluationRecord(checkpoint_id=manifest.id, kind=manifest.identity.kind, num_steps=num_steps)
    if num_steps > settings.max_sampling_steps:
        limit = f"evaluation.max_sampling_steps = {settings.max_sampling_steps}"
        return record.model_copy(
            update={"not_evaluated_reason": f"{num_steps} sampling steps are more than {limit}"}
        )
    settings = guided_as(manifest, settings)
    examiner = Examiner(store, settings, info, device)
    asked = ddim_asked(manifest, baseline)
    for field, checkpoint in sampled_ancestrally(manifest, baseline, settings):
        gamma = best_gamma(store, settings, info, checkpoint, num_steps, device=device)
        asked.append(Asked(field, checkpoint, SamplerName.ANCESTRAL, gamma))
    answers = {a.field: examiner.answer(a.checkpoint, a.sampler, num_steps, a.gamma) for a in asked}
    shown = answers["distilled"].shown
    if shown is None or num_steps not in settings.neighbours_at_steps:
        return record.model_copy(update=answers)
    return record.model_copy(update={**answers, "neighbours": neighbours_of(store, shown, info)})
