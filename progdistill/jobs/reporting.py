"""The report of a run, from its references, its measurements and the times its jobs computed."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from progdistill.artifacts.checkpoint import load_manifest
from progdistill.artifacts.lineage import draw, lineage_tree
from progdistill.artifacts.runs import report_key
from progdistill.artifacts.store import Store
from progdistill.evaluation.measurement import EvaluationRecord
from progdistill.prepare import PreparedRun
from progdistill.report.build import build_report
from progdistill.report.gather import stage_entry
from progdistill.report.input import LossPoint, ReportInput, Timings
from progdistill.training.circumstances import code_version


def write_report(
    prepared: PreparedRun,
    store: Store,
    run: tuple[str, str],
    folder: Path,
    checkpoints: Sequence[dict[str, Any]],
    evaluations: Sequence[EvaluationRecord],
    intervals: Sequence[tuple[float, float]],
    started_at: datetime,
) -> Path:
    """Write `folder`/report and point `runs/latest` to the run; return the path of the page.

    The page is put into the store too: a pod's own folder ends with the pod.
    """
    settings, dataset = prepared.settings, prepared.dataset
    entries = []
    for checkpoint, record in zip(checkpoints, evaluations, strict=True):
        points = [LossPoint(update=update, loss=loss) for update, loss in checkpoint["loss_curve"]]
        entries.append(stage_entry(store, load_manifest(store, checkpoint["id"]), record, points))
    sampling = sum(entry.sampling_seconds or 0.0 for entry in entries)
    evaluating = sum(entry.evaluation_seconds or 0.0 for entry in entries)
    total = (datetime.now(UTC) - started_at).total_seconds()
    overhead = max(0.0, total - covered_seconds(intervals))
    measured = next((r.distilled for r in evaluations if r.distilled is not None), None)
    report = ReportInput(
        run_id=run[1],
        flow=run[0],
        created_at=datetime.now(UTC),
        dataset=dataset.name,
        dataset_fingerprint=dataset.fingerprint,
        class_names=tuple(dataset.class_names),
        evaluator=str(settings.evaluation.evaluator),
        evaluator_id=None if measured is None else measured.question.evaluator_id,
        seed=settings.seed,
        code_version=code_version()[0],
        store=store.uri,
        configuration=settings.model_dump(mode="json"),
        checkpoints=tuple(entries),
        timings=Timings(
            total_seconds=total,
            training_seconds=sum(entry.seconds or 0.0 for entry in entries),
            sampling_seconds=sampling,
            evaluation_seconds=evaluating,
            overhead_seconds_per_stage=overhead / max(1, len(entries) - 1),
        ),
        lineage="\n".join(draw(lineage_tree(store, checkpoints[-1]["id"]), checkpoints[-1]["id"])),
    )
    page = build_report(report, folder / "report")
    store.write(report_key(*run), page.read_bytes())
    point_latest_to(folder)
    return page


def covered_seconds(intervals: Sequence[tuple[float, float]]) -> float:
    """The length of the union of intervals, in seconds: jobs that overlap count once."""
    covered, end = 0.0, float("-inf")
    for start, finish in sorted(intervals):
        covered += max(0.0, finish - max(start, end))
        end = max(end, finish)
    return covered


def point_latest_to(folder: Path) -> None:
    """Make `latest` beside a run's folder a link to it, replacing an older link in one step."""
    draft = folder.parent / f".latest-{os.getpid()}"
    draft.unlink(missing_ok=True)
    draft.symlink_to(folder.name)
    draft.replace(folder.parent / "latest")
