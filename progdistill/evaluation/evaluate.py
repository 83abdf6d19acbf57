"""A checkpoint beside its baselines at equal steps, sample counts and noise: one x of Figure 4."""

from progdistill.artifacts.checkpoint import CheckpointManifest
from progdistill.artifacts.store import Store
from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.names import SamplerName
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.evaluator_manifest import EvaluatorManifest
from progdistill.evaluation.examiner import REFERENCE_SPLIT, Examiner
from progdistill.evaluation.measurement import EvaluationRecord
from progdistill.evaluation.reference import reference_moments


def prepare_evaluator(
    store: Store, settings: EvaluationSettings, info: DatasetInfo, *, device: str = "cpu"
) -> EvaluatorManifest:
    """Make sure that the store has the evaluator and what the real images look like to it.

    Worth doing once before stages are evaluated side by side, which would each do it otherwise.
    """
    examiner = Examiner(store, settings, info, device)
    reference_moments(store, examiner.evaluator, info, REFERENCE_SPLIT, device)
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
    measured = {"distilled": examiner.answer(manifest, SamplerName.DDIM, num_steps)}
    if baseline is not None:
        measured["baseline_ddim"] = examiner.answer(baseline, SamplerName.DDIM, num_steps)
        measured["baseline_ancestral"] = examiner.answer(
            baseline, SamplerName.ANCESTRAL, num_steps, settings.ancestral_gamma
        )
    return record.model_copy(update=measured)
