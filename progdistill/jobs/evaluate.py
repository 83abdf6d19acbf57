"""Measuring jobs: prepare an evaluator, or evaluate a checkpoint."""

from typing import Any

from progdistill.evaluation.evaluate import evaluate_checkpoint, sample_distributed
from progdistill.evaluation.runner import MeasurementRunner
from progdistill.jobs.spec import EvaluateSpec, EvaluationOutput, EvaluatorOutput, JobRequest, PrepareEvaluatorSpec
from progdistill.registry.checkpoint import load_manifest
from progdistill.store.base import Store
from progdistill.training.distributed import Rank


def run_measuring(
    spec: PrepareEvaluatorSpec | EvaluateSpec, request: JobRequest, store: Store, rank: Rank
) -> EvaluatorOutput | EvaluationOutput | None:
    """Do the job with all ranks; return what it publishes on rank 0, None on others."""
    device = str(rank.device)
    if isinstance(spec, PrepareEvaluatorSpec):
        evaluator = MeasurementRunner(store, spec.evaluation, request.dataset, device).prepare()
        return EvaluatorOutput(evaluator_id=evaluator.id)
    manifest = load_manifest(store, spec.checkpoint)
    baseline = None if spec.baseline is None else load_manifest(store, spec.baseline)
    arguments = (store, manifest, baseline, spec.sampling_steps, spec.evaluation, request.dataset)
    where: Any = {"device": device, "compiled": request.compute.compile == "on"}
    if rank.world_size > 1:
        sample_distributed(*arguments, rank=rank.rank, world_size=rank.world_size, barrier=rank.barrier, **where)
    return EvaluationOutput(record=evaluate_checkpoint(*arguments, **where)) if rank.rank == 0 else None
