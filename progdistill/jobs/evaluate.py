"""Measuring jobs: the evaluator made ready, or a checkpoint measured by all ranks together."""

from progdistill.evaluation.evaluate import evaluate_checkpoint, prepare_evaluator, sample_distributed
from progdistill.jobs.spec import EvaluateSpec, JobRequest, PrepareEvaluatorSpec
from progdistill.registry.checkpoint import load_manifest
from progdistill.store.base import Store
from progdistill.training.distributed import Rank


def run_measuring(request: JobRequest, store: Store, rank: Rank) -> str:
    """Measure; on rank 0 return an evaluator id or an evaluation record as JSON, on others nothing."""
    spec, device = request.spec, str(rank.device)
    if isinstance(spec, PrepareEvaluatorSpec):
        if rank.rank != 0:
            return ""
        return prepare_evaluator(store, spec.evaluation, request.dataset, device=device).id
    assert isinstance(spec, EvaluateSpec)
    manifest = load_manifest(store, spec.checkpoint)
    baseline = None if spec.baseline is None else load_manifest(store, spec.baseline)
    arguments = (store, manifest, baseline, spec.sampling_steps, spec.evaluation, request.dataset)
    if rank.world_size > 1:
        sample_distributed(
            *arguments, rank=rank.rank, world_size=rank.world_size, barrier=rank.barrier, device=device
        )
    if rank.rank != 0:
        return ""
    return evaluate_checkpoint(*arguments, device=device).model_dump_json()
