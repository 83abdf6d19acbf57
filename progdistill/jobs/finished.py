"""Whether a job need not be run: its result is there, and so is what it made."""

import sys

from progdistill.artifacts.checkpoint import require_blob, require_checkpoint
from progdistill.artifacts.records import publish_record, read_record
from progdistill.artifacts.store import Store
from progdistill.errors import LostInvariantError
from progdistill.evaluation.evaluator_manifest import require_evaluator
from progdistill.evaluation.measurement import EvaluationRecord
from progdistill.jobs.spec import (
    EvaluateSpec,
    JobResult,
    JobSpec,
    PrepareEvaluatorSpec,
    TrainingSpec,
    result_key,
)


def finished_result(store: Store, spec: JobSpec) -> JobResult | None:
    """The result of a job that is done; None where it is to be run, for the first time or again.

    A result that is damaged, or that has lost what it stands for, is removed: reused, it would keep the job
    from mending that. Of files only the size is looked at: `progdistill checkpoints verify` reads weights.
    """
    key = result_key(spec.id)
    try:
        found = read_record(store, key, JobResult)
        if found is None:
            return None
        # Its age starts again before the checkpoint is looked for: from now on gc spares both.
        result = publish_record(store, key, found)
        if isinstance(spec, TrainingSpec):
            require_checkpoint(store, result.output)
        elif isinstance(spec, PrepareEvaluatorSpec):
            require_evaluator(store, result.output)
        else:
            for picture in EvaluationRecord.model_validate_json(result.output).files:
                require_blob(store, picture)
    except LostInvariantError as error:
        print(f"{spec.label} is made again: {error}", file=sys.stderr, flush=True)
        store.delete(key)
        return None
    if isinstance(spec, EvaluateSpec):
        for measurement in EvaluationRecord.model_validate_json(result.output).measurements:
            publish_record(store, measurement.question.key, measurement)
    return result
