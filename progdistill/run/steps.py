"""The steps of a run: each describes a job, has it done, and returns a small result."""

import logging
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypedDict

from pydantic import JsonValue

from progdistill.config.settings import LauncherName
from progdistill.evaluation.measurement import EvaluationRecord
from progdistill.evaluation.plan import as_sampled, baseline_of, needs_features, no_images_reason
from progdistill.jobs.events import Event, EventFile, Listener, ignore, suppress_errors
from progdistill.jobs.local import LocalLauncher
from progdistill.jobs.result_cache import Launcher, complete
from progdistill.jobs.spec import (
    CheckpointOutput,
    EvaluateSpec,
    EvaluationOutput,
    JobRequest,
    JobResult,
    JobSpec,
    PrepareEvaluatorSpec,
)
from progdistill.logs import log_fields
from progdistill.registry.checkpoint import load_manifest
from progdistill.registry.lineage import lineage_tree
from progdistill.registry.runs import record_run_checkpoint
from progdistill.run.prepare import PreparedRun, runs_folder
from progdistill.run.progress_record import ProgressRecord
from progdistill.run.ranks import world_size_of
from progdistill.run.trackers import Tracking, open_tracker
from progdistill.run.trainings import base_training, facts_of_job, guided_training, stage_training
from progdistill.store.layout import report_key
from progdistill.store.open import open_store

logger = logging.getLogger(__name__)

Interval = tuple[float, float]
"""Seconds since the epoch between which a job of this run computed."""

EVENTS_FILE = "events.jsonl"


class StageCheckpoint(TypedDict):
    """A checkpoint of the run, as a Metaflow artifact: plain values, readable without this package."""

    id: str
    store: str
    kind: str
    sampling_steps: int | None
    dataset_name: str
    parent: str | None
    loss_curve: list[tuple[int, float]]
    """Update and loss; empty for a checkpoint that the run starts from."""


StageEvaluation = dict[str, JsonValue]
"""An EvaluationRecord as a Metaflow artifact."""


class RunSteps:
    """The steps of one run. Events of its jobs are appended to the run's `events.jsonl`."""

    def __init__(self, prepared: PreparedRun, flow: str, run_id: str) -> None:
        self._prepared, self._settings = prepared, prepared.settings
        self._flow, self._run_id = flow, run_id
        self._store = open_store(self._settings.store)
        self._folder = runs_folder() / run_id
        self._event_file = suppress_errors(EventFile(self._folder / EVENTS_FILE))
        record = ProgressRecord(self._store, flow, run_id, prepared.dataset.name, self._settings.ladder)
        self._progress = suppress_errors(record)
        self._tracking = [
            Tracking(open_tracker(name, f"{flow}/{run_id}", self._folder), self._store)
            for name in self._settings.live.trackers
        ]
        self._trackers = [suppress_errors(tracking) for tracking in self._tracking]
        self._card: Listener = ignore
        self._launcher = self._make_launcher(self._folder / "jobs")
        self._job = facts_of_job(prepared)
        self.intervals: list[Interval] = []

    def show_on(self, card: Any) -> None:
        """Update a Metaflow card with the training of the next steps."""
        from progdistill.run.live_card import LiveCard

        self._card = suppress_errors(LiveCard(card, self._store))

    def record(self, checkpoints: Sequence[StageCheckpoint]) -> None:
        """Record in the store that the run has these checkpoints, from the top of the ladder down.

        Metaflow clones finished steps of a resumed run without executing them; their checkpoints must outlast the run
        that made them.
        """
        for steps, checkpoint in zip(self._settings.ladder, checkpoints, strict=False):
            record_run_checkpoint(self._store, self._flow, self._run_id, steps, checkpoint["id"])

    def first_teacher(self) -> StageCheckpoint:
        """Train the base model, unless the run starts from a checkpoint, and distill guidance if it is set.

        Returns:
            The checkpoint at the top of the ladder: the base model, or its guided student.
        """
        settings, checkpoint_id = self._settings, self._settings.first_teacher
        output: CheckpointOutput | None = None
        if checkpoint_id is None:
            output = self._complete(base_training(self._prepared)).output_of(CheckpointOutput)
            checkpoint_id = output.checkpoint_id
        if settings.has_guided_stage:
            output = self._complete(guided_training(self._prepared, checkpoint_id)).output_of(CheckpointOutput)
            checkpoint_id = output.checkpoint_id
        return self._stage_checkpoint(checkpoint_id, 0, output)

    def has_stage(self, stage_index: int) -> bool:
        """Whether the ladder has a stage of this number; stage 1 makes the first student."""
        return stage_index < len(self._settings.ladder)

    def distill(self, teacher: StageCheckpoint, stage_index: int) -> StageCheckpoint:
        """Distill the teacher into the student of rung `stage_index`."""
        spec = stage_training(self._prepared, teacher["id"], stage_index)
        output = self._complete(spec).output_of(CheckpointOutput)
        return self._stage_checkpoint(output.checkpoint_id, stage_index, output)

    def prepare_evaluator(self) -> None:
        """Train or fetch the feature extractor, and measure the real images.

        A network from a file is published here, on the machine that has the file: a job may run elsewhere.
        """
        evaluation, model, dataset = self._settings.evaluation, self._settings.model, self._prepared.dataset
        if needs_features(evaluation, model, dataset) and evaluation.evaluator in ("inception", "features_file"):
            from progdistill.features.registry import find_or_publish_evaluator

            find_or_publish_evaluator(self._store, evaluation, as_sampled(self._store, model, dataset))
        if no_images_reason(model, dataset) is not None:
            return  # Students are compared with their teacher alone.
        self._complete(PrepareEvaluatorSpec(**self._job, evaluation=evaluation))

    def evaluate(self, checkpoint: StageCheckpoint, rung: int) -> StageEvaluation:
        """Measure a checkpoint and its baseline at the sampling steps of a rung."""
        manifest, steps = load_manifest(self._store, checkpoint["id"]), self._settings.ladder[rung]
        baseline = baseline_of(self._store, manifest)
        spec = EvaluateSpec(
            **self._job,
            world_size=world_size_of(self._settings, "evaluate"),
            checkpoint=checkpoint["id"],
            baseline=None if baseline is None else baseline.id,
            sampling_steps=steps,
            evaluation=self._settings.measured_evaluation,
        )
        return self._complete(spec).output_of(EvaluationOutput).record.model_dump(mode="json")

    def train_and_measure(self, rungs: int | None = None) -> tuple[list[StageCheckpoint], list[StageEvaluation]]:
        """All checkpoints of the run and their evaluations, or those of the topmost rungs."""
        checkpoints = [self.first_teacher()]
        while self.has_stage(len(checkpoints)) and len(checkpoints) != rungs:
            checkpoints.append(self.distill(checkpoints[-1], len(checkpoints)))
        return checkpoints, [self.evaluate(checkpoint, rung) for rung, checkpoint in enumerate(checkpoints)]

    def report(
        self,
        checkpoints: Sequence[StageCheckpoint],
        evaluations: Sequence[StageEvaluation],
        intervals: Sequence[Interval],
        started_at: str,
    ) -> Path:
        """Write the report; return the path of its page."""
        from progdistill.run.report import write_report

        records = [EvaluationRecord.model_validate(record) for record in evaluations]
        for tracking in self._tracking:
            tracking.measured(records)
        return write_report(
            self._prepared,
            self._store,
            (self._flow, self._run_id),
            self._folder,
            [(checkpoint["id"], checkpoint["loss_curve"]) for checkpoint in checkpoints],
            records,
            intervals,
            datetime.fromisoformat(started_at),
        )

    @property
    def report_uri(self) -> str:
        """Where the report's page is in the store."""
        return f"{self._store.uri}/{report_key(self._flow, self._run_id)}"

    def lineage_page(self, checkpoint_id: str) -> str:
        """The tree of teachers and students around a checkpoint, as a self-contained HTML page."""
        from progdistill.report.lineage_page import lineage_page

        tree = lineage_tree(self._store, checkpoint_id, unreadable=[])
        return lineage_page(self._store, tree, checkpoint_id)

    def _make_launcher(self, folder: Path) -> Launcher:
        if self._settings.launcher is LauncherName.LOCAL:
            return LocalLauncher(folder, self._on_event)
        from progdistill.jobs.kubernetes.launcher import KubernetesLauncher

        return KubernetesLauncher(self._store, self._settings.cluster, folder, self._on_event)

    def _complete(self, spec: JobSpec) -> JobResult:
        request = JobRequest(
            spec=spec,
            store=self._settings.store,
            dataset=self._prepared.dataset,
            snapshots=self._settings.snapshots,
            compute=self._settings.compute,
            created_by=f"{self._flow}/{self._run_id}",
            configuration=self._settings.model_dump(mode="json"),
            driver_process_id=os.getpid(),
            live=self._settings.live,
        )
        with log_fields(**request.log_fields):
            result, reused = complete(self._store, self._launcher, request, self._on_event)
            if reused:
                logger.info("%s: found finished in the store", spec.label)
        if not reused:
            self.intervals.append((result.started_at.timestamp(), result.finished_at.timestamp()))
        return result

    def _on_event(self, event: Event) -> None:
        for listener in (self._event_file, self._progress, *self._trackers, self._card):
            listener(event)

    def _stage_checkpoint(self, checkpoint_id: str, rung: int, output: CheckpointOutput | None) -> StageCheckpoint:
        manifest = load_manifest(self._store, checkpoint_id)
        steps = self._settings.ladder[rung]
        record_run_checkpoint(self._store, self._flow, self._run_id, steps, checkpoint_id)
        return StageCheckpoint(
            id=manifest.id,
            store=self._store.uri,
            kind=str(manifest.identity.kind),
            sampling_steps=manifest.identity.sampling_steps,
            dataset_name=manifest.provenance.dataset_name,
            parent=manifest.identity.parent,
            loss_curve=[] if output is None else list(output.loss_curve),
        )
