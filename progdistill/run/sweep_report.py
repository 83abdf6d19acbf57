"""The report of a sweep, from the results of its runs."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue

from progdistill.evaluation.measurement import EvaluationRecord
from progdistill.models_base import Frozen
from progdistill.registry.checkpoint import load_manifest
from progdistill.registry.runs import record_run_checkpoint
from progdistill.report.input import stage_entry
from progdistill.report.sweep import SweepReport, SweepRun, build_sweep, headline
from progdistill.run.prepare import runs_folder
from progdistill.run.report import point_latest_to
from progdistill.run.sweep import PreparedSweep
from progdistill.store.base import Store
from progdistill.store.layout import report_key
from progdistill.store.open import open_store
from progdistill.training.provenance import code_version


class MemberResult(Frozen):
    """What a run of a sweep made, as a Metaflow artifact."""

    member: int
    checkpoints: tuple[str, ...] = ()
    """Ids, from the top of the ladder down; empty where the run diverged."""
    evaluations: tuple[dict[str, JsonValue], ...] = ()
    """An EvaluationRecord of each checkpoint."""
    diverged: str | None = None
    """The message of a run whose training or samples were not finite."""


def write_sweep_report(
    sweep: PreparedSweep, results: Sequence[MemberResult], flow: str, run_id: str
) -> tuple[Path, str, str]:
    """Write `runs/RUN/report`, put its page into the store, and record what the sweep has.

    The store then knows the checkpoints of every run, as `Flow/RUN.MEMBER/STEPS`, and as `Flow/RUN/STEPS` those of
    the best setting's first run.

    Returns:
        The path of the page, its URI in the store, and the result in a sentence.
    """
    store = open_store(sweep.members[0].run.settings.store)
    entries = tuple(_run_of(store, sweep, result, f"{flow}/{run_id}.{result.member}") for result in results)
    first = sweep.members[0].run
    report = SweepReport(
        run_id=run_id,
        flow=flow,
        created_at=datetime.now(UTC),
        dataset=first.dataset.name,
        code_version=code_version()[0],
        store=store.uri,
        sampling_steps=sweep.comparable_steps,
        configuration=first.settings.model_dump(mode="json"),
        runs=entries,
    )
    for result in results:
        _record(store, flow, f"{run_id}.{result.member}", sweep, result)
    if (best := report.best) is not None:
        _record(store, flow, run_id, sweep, results[best.members[0]])
    page = build_sweep(report, runs_folder() / run_id / "report")
    store.write(report_key(flow, run_id), page.read_bytes())
    point_latest_to(runs_folder() / run_id)
    return page, f"{store.uri}/{report_key(flow, run_id)}", headline(report)


def _run_of(store: Store, sweep: PreparedSweep, result: MemberResult, name: str) -> SweepRun:
    member = sweep.members[result.member]
    stages = (
        stage_entry(store, load_manifest(store, checkpoint), EvaluationRecord.model_validate(record))
        for checkpoint, record in zip(result.checkpoints, result.evaluations, strict=True)
    )
    without_pictures = {"samples": None, "baseline_ddim_samples": None, "neighbors": None}
    return SweepRun(
        name=name,
        setting=member.setting,
        seed=member.seed,
        checkpoints=tuple(stage.model_copy(update=without_pictures) for stage in stages),
        diverged=result.diverged,
    )


def _record(store: Store, flow: str, run_id: str, sweep: PreparedSweep, result: MemberResult) -> None:
    ladder = sweep.members[result.member].run.settings.ladder
    for steps, checkpoint in zip(ladder, result.checkpoints, strict=False):
        record_run_checkpoint(store, flow, run_id, steps, checkpoint)
