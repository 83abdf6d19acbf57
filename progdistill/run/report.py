"""The report of a run, from its checkpoints, its measurements and the times its jobs computed."""

import errno
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from progdistill.errors import UsageError
from progdistill.evaluation.measurement import EvaluationRecord
from progdistill.registry.checkpoint import CheckpointManifest, load_manifest
from progdistill.registry.lineage import draw, lineage_tree
from progdistill.report.build import build_report
from progdistill.report.input import LossPoint, ReportInput, Timings, stage_entry
from progdistill.run.prepare import PreparedRun, runs_folder
from progdistill.store.base import Store
from progdistill.store.layout import report_key
from progdistill.training.provenance import code_version

logger = logging.getLogger(__name__)


def write_report(
    prepared: PreparedRun,
    store: Store,
    run: tuple[str, str],
    folder: Path,
    checkpoints: Sequence[tuple[str, Sequence[tuple[int, float]]]],
    evaluations: Sequence[EvaluationRecord],
    intervals: Sequence[tuple[float, float]],
    started_at: datetime,
) -> Path:
    """Write `folder`/report, put its page into the store too, and point `runs/latest` to the run.

    `run` is the flow's name and the run id; `checkpoints` are ids with loss curves (update, loss), and
    `evaluations` their records, from the top of the ladder down; `intervals` are seconds since the epoch
    between which jobs of the run computed. Returns the path of the page.
    """
    settings, dataset = prepared.settings, prepared.dataset
    manifests = [load_manifest(store, checkpoint_id) for checkpoint_id, _ in checkpoints]
    entries = [
        stage_entry(store, manifest, record, [LossPoint(update=update, loss=loss) for update, loss in losses])
        for (_, losses), manifest, record in zip(checkpoints, manifests, evaluations, strict=True)
    ]
    measured = next((r.distilled for r in evaluations if r.distilled is not None), None)
    # Damage elsewhere in the store must not cost this run its report.
    tree = lineage_tree(store, manifests[-1].id, unreadable=[])
    report = ReportInput(
        run_id=run[1],
        flow=run[0],
        created_at=datetime.now(UTC),
        dataset=dataset.name,
        dataset_fingerprint=dataset.fingerprint,
        class_names=tuple(dataset.class_names),
        evaluator=str(settings.evaluation.evaluator),
        evaluator_id=None if measured is None else measured.spec.evaluator_id,
        seed=settings.seed,
        code_version=code_version()[0],
        store=store.uri,
        configuration=settings.model_dump(mode="json"),
        checkpoints=tuple(entries),
        timings=timings_of(f"{run[0]}/{run[1]}", manifests, evaluations, intervals, started_at),
        lineage="\n".join(draw(tree, manifests[-1].id)),
    )
    page = build_report(report, folder / "report")
    store.write(report_key(*run), page.read_bytes())
    point_latest_to(folder)
    return page


def timings_of(
    run: str,
    checkpoints: Sequence[CheckpointManifest],
    evaluations: Sequence[EvaluationRecord],
    intervals: Sequence[tuple[float, float]],
    started_at: datetime,
) -> Timings:
    """Where the time of `run` (Flow/run id) went, apart from what the store already had.

    A run made the checkpoints that bear its name, and what was made while one of its jobs computed: a resumed run takes
    over the intervals of the run that it resumes.
    """

    def within(moment: datetime) -> bool:
        return any(start <= moment.timestamp() <= finish for start, finish in intervals)

    total = max(0.0, (datetime.now(UTC) - started_at).total_seconds())  # the clock may have been set back
    overhead = max(0.0, total - covered_seconds(intervals))
    training = sampling = evaluating = stored = 0.0
    for made in (manifest.provenance for manifest in checkpoints):
        seconds = 0.0 if made.figures is None else made.figures.seconds
        if made.created_by == run or within(made.created_at):
            training += seconds
        else:
            stored += seconds
    for measurement in (m for record in evaluations for m in record.measurements):
        if within(measurement.created_at):
            sampling += measurement.sampling_seconds
            evaluating += measurement.evaluation_seconds
        else:
            stored += measurement.seconds
    return Timings(
        total_seconds=total,
        training_seconds=training,
        sampling_seconds=sampling,
        evaluation_seconds=evaluating,
        overhead_seconds_per_stage=overhead / max(1, len(checkpoints) - 1),
        stored_seconds=stored,
    )


def covered_seconds(intervals: Sequence[tuple[float, float]]) -> float:
    """The length of the union of intervals, in seconds: jobs that overlap count once."""
    covered, end = 0.0, float("-inf")
    for start, finish in sorted(intervals):
        covered += max(0.0, finish - max(start, end))
        end = max(end, finish)
    return covered


def point_latest_to(folder: Path) -> None:
    """Make `latest` beside a run's folder a link to it, atomically; log a warning where that fails."""
    latest, draft = folder.parent / "latest", folder.parent / f".latest-{os.getpid()}"
    try:
        if latest.exists() and not latest.is_symlink():
            raise FileExistsError(errno.EEXIST, "it is not a link")
        draft.unlink(missing_ok=True)
        draft.symlink_to(folder.name)
        draft.replace(latest)
    except OSError as error:
        logger.warning(
            "%s does not point to this run (%s): see %s, and move %s away for later runs",
            *(latest, error.strerror, folder, latest),
        )
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def report_folder(run_id: str) -> Path:
    """Return the report folder of a run id, `latest` or a run folder; UsageError if there is none."""
    name = run_id.removeprefix("DistillFlow/")
    for run_folder in (runs_folder() / name, Path(run_id)):
        if (run_folder / "report").is_dir():
            return run_folder / "report"
    known = sorted(path.parent.name for path in runs_folder().glob("*/report"))
    available = f"available: {', '.join(known)}" if known else f"{runs_folder().absolute()} holds none"
    raise UsageError(f"no report of run {run_id!r}; {available}")
