"""Evaluates a checkpoint beside the undistilled model."""

from collections.abc import Callable, Sequence
from itertools import cycle

from progdistill.data.dataset import DatasetInfo
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.measurement import EvaluationRecord
from progdistill.evaluation.nearest import neighbors_of
from progdistill.evaluation.plan import PlannedMeasurement, plan_evaluation
from progdistill.evaluation.runner import MeasurementRunner
from progdistill.evaluation.to_teacher import compare_with_teacher, plan_comparison
from progdistill.registry.checkpoint import CheckpointManifest
from progdistill.registry.evaluations import MeasurementSpec
from progdistill.store.base import Store


def evaluate_checkpoint(
    store: Store,
    manifest: CheckpointManifest,
    baseline: CheckpointManifest | None,
    sampling_steps: int,
    settings: EvaluationSettings,
    info: DatasetInfo,
    *,
    device: str = "cpu",
    compiled: bool = False,
) -> EvaluationRecord:
    """Measure a checkpoint and the undistilled model, with DDIM and ancestral sampling.

    Every measurement is published under `evaluations/<checkpoint id>/` and never repeated: a later evaluation
    with the same spec, in another run too, reuses it.

    Args:
        store: Where the checkpoints are, and where measurements go.
        manifest: The checkpoint.
        baseline: The undistilled model (`plan.baseline_of`), or None to measure the checkpoint alone.
        sampling_steps: Steps to sample both with. More than `settings.max_sampling_steps` are not measured,
            and the record says so.
        settings: Samples, noise, evaluator and reference statistics.
        info: The dataset with the real images.
        device: Where samples and features are computed.
        compiled: Whether the sampled networks are.

    Raises:
        UsageError: The evaluator does not fit the dataset, its weights are missing, or the checkpoint cannot be
            guided as requested.
        LostInvariantError: Samples are not finite, or the store lost weights.
    """
    plan = plan_evaluation(manifest, baseline, sampling_steps, settings, info)
    record = EvaluationRecord(
        checkpoint_id=manifest.id,
        kind=manifest.identity.kind,
        sampling_steps=sampling_steps,
        not_evaluated_reason=plan.not_measured,
    )
    if plan.comparison is not None:
        compared = compare_with_teacher(
            store, manifest, plan.comparison, sampling_steps, settings, info, device=device, compiled=compiled
        )
        record = record.model_copy(update={"to_teacher": compared})
    if plan.not_measured is not None:
        return record
    runner = MeasurementRunner(store, settings, info, device, compiled=compiled)
    listed = runner.plan(manifest, baseline, sampling_steps)
    measurements = {planned.field: runner.run(_reported(planned, runner)) for planned in listed}
    record = record.model_copy(update=measurements)
    shown = measurements["distilled"].shown
    if shown is None or sampling_steps not in settings.neighbors_at_steps:
        return record
    return record.model_copy(update={"neighbors": neighbors_of(store, shown, info)})


def _reported(planned: PlannedMeasurement, runner: MeasurementRunner) -> MeasurementSpec:
    """The spec with the γ of the trial at the least distance.

    It is measured on other noise than the trials: the best of eleven on the same noise would be too good.
    """
    if not planned.trials:
        return planned.spec
    trials = [runner.run(trial) for trial in planned.trials]
    return planned.spec.model_copy(update={"gamma": min(trials, key=lambda m: m.distance).spec.gamma})


class RoundRobin:
    """Assigns shards to ranks in turn, across measurements, so that few shards of each are even too."""

    def __init__(self, rank: int, world_size: int) -> None:
        self._rank, self._turns = rank, cycle(range(world_size))

    def assigned(self, shards: Sequence[range]) -> list[range]:
        """This rank's part of the next shards."""
        return [shard for shard, turn in zip(shards, self._turns, strict=False) if turn == self._rank]


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
    barrier: Callable[[], object],
    device: str = "cpu",
    compiled: bool = False,
) -> None:
    """Sample this rank's share of what `evaluate_checkpoint`, called afterward on rank 0, will measure.

    All ranks call it with equal arguments. Shards do not depend on the number of ranks, so neither do the
    figures. Finished shards stay in the store, where a later attempt finds them. `barrier` returns when every
    rank has called it.
    """
    parts, shares = plan_evaluation(manifest, baseline, sampling_steps, settings, info), RoundRobin(rank, world_size)
    if parts.comparison is not None:
        compared = plan_comparison(
            store, manifest, parts.comparison, sampling_steps, settings, info, device=device, compiled=compiled
        )
        for spec in compared.specs:
            compared.generator.images(spec, compared.samples, shares.assigned)
        barrier()
    if parts.not_measured is not None:
        return
    if rank == 0:
        MeasurementRunner(store, settings, info, device).prepare()
    barrier()
    runner = MeasurementRunner(store, settings, info, device, compiled=compiled)

    def sample(specs: list[MeasurementSpec]) -> None:
        for spec in dict.fromkeys(specs):  # a base model is its own baseline
            runner.sample(spec, shares.assigned)

    plan = runner.plan(manifest, baseline, sampling_steps)
    tuned = [planned for planned in plan if planned.trials]
    sample([planned.spec for planned in plan if not planned.trials])
    sample([trial for planned in tuned for trial in planned.trials])
    barrier()
    if not tuned:
        return
    if rank == 0:
        for planned in tuned:
            _reported(planned, runner)
    barrier()
    sample([_reported(planned, runner) for planned in tuned])
    barrier()
