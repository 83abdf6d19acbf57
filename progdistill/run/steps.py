"""What each step of the flow does: describe a job, have it done, remember when it computed."""

from datetime import datetime
from pathlib import Path
from typing import Any

from progdistill.config.settings import LauncherName
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.measurement import EvaluationRecord
from progdistill.evaluation.plan import baseline_of
from progdistill.jobs.events import Event, EventFile, Harmless, Listener, ignore
from progdistill.jobs.local import LocalLauncher
from progdistill.jobs.result_cache import JobOutcome, Launcher, complete
from progdistill.jobs.spec import (
    DistillSpec,
    EvaluateSpec,
    GuideSpec,
    JobRequest,
    JobResult,
    JobSpec,
    PrepareEvaluatorSpec,
    TrainBaseSpec,
)
from progdistill.logs import configure_logging
from progdistill.registry.checkpoint import CheckpointRef, load_manifest
from progdistill.registry.lineage import lineage_tree
from progdistill.registry.runs import record_run_checkpoint
from progdistill.run.prepare import PreparedRun, device_of, runs_folder, world_size_of
from progdistill.store.layout import report_key
from progdistill.store.open import open_store
from progdistill.training.accelerators import precision_for

Interval = tuple[float, float]
"""Seconds since the epoch between which a job of this run computed."""


class RunSteps:
    """The steps of one run. What they return is JSON, small enough to read as a Metaflow artifact.

    What happens in jobs is kept in the run's `events.jsonl`.
    """

    def __init__(self, facts: dict[str, Any], flow: str, run_id: str) -> None:
        configure_logging()
        self._prepared = PreparedRun.model_validate(facts)
        self._settings, self._dataset = self._prepared.settings, self._prepared.dataset
        self._flow, self._run_id = flow, run_id
        self._store = open_store(self._settings.store)
        self._folder = runs_folder() / run_id
        self._event_file = Harmless(EventFile(self._folder / "events.jsonl"))
        self._on_event: Listener = ignore
        self._launcher = self._chosen_launcher()
        self._shared: dict[str, Any] = {
            "dataset_fingerprint": self._dataset.fingerprint,
            "seed": self._settings.seed,
        }
        self.intervals: list[Interval] = []

    def show_on(self, card: Any) -> None:
        """Keep a Metaflow card up to date with the training that the next steps do."""
        from progdistill.run.live_card import LiveCard

        self._on_event = Harmless(LiveCard(card, self._store))

    def record(self, checkpoints: list[dict[str, Any]]) -> None:
        """Record that the run has these, from the ladder's top down, whoever made them.

        Metaflow clones the finished steps of a resumed run instead of executing them, and what they made has
        to outlast the run that made it.
        """
        for steps, checkpoint in zip(self._settings.ladder, checkpoints, strict=False):
            record_run_checkpoint(self._store, self._flow, self._run_id, steps, checkpoint["id"])

    def first_teacher(self) -> dict[str, Any]:
        """Train the base model, unless the run starts from a checkpoint, and distill guidance if asked for.

        Return the reference of what the ladder starts with: the base model, or its guided student.
        """
        checkpoint_id = self._settings.first_teacher
        loss_curve: Any = ()
        if checkpoint_id is None:
            spec = TrainBaseSpec(
                **self._trained("train_base"),
                model=self._settings.model,
                training=self._settings.base.loop_settings(),
                label_dropout=self._settings.label_dropout,
            )
            result = self._complete(spec)
            checkpoint_id, loss_curve = result.output, result.loss_curve
        if self._settings.has_guided_stage:
            result = self._complete(self._guide_spec(checkpoint_id))
            checkpoint_id, loss_curve = result.output, result.loss_curve
        return self._recorded(checkpoint_id, 0, loss_curve)

    def _guide_spec(self, teacher_id: str) -> GuideSpec:
        guidance_scale = self._settings.guidance_scale
        assert guidance_scale is not None
        return GuideSpec(
            **self._trained("guide"),
            teacher=teacher_id,
            student_steps=self._settings.ladder[0],
            prediction=self._settings.student_prediction,
            training=self._settings.distill.guidance_settings(),
            guidance_scale=guidance_scale,
        )

    def has_stage(self, stage_index: int) -> bool:
        """Whether the ladder has a stage of this number; stage 1 makes the first student."""
        return stage_index < len(self._settings.ladder)

    def distill(self, teacher: dict[str, Any], stage_index: int) -> dict[str, Any]:
        """Distill the teacher into the student of rung `stage_index`; return its reference."""
        steps = self._settings.ladder[stage_index]
        spec = DistillSpec(
            **self._trained("distill"),
            teacher=teacher["id"],
            student_steps=steps,
            prediction=self._settings.student_prediction,
            training=self._settings.distill.for_stage(steps),
            guidance_scale=self._settings.guidance_scale,
        )
        result = self._complete(spec)
        return self._recorded(result.output, stage_index, result.loss_curve)

    def prepare_evaluator(self) -> None:
        """Have the evaluator trained or fetched, and the real images measured.

        A network from a file is published here, where the user named the file: a job may run elsewhere.
        """
        if self._settings.evaluation.evaluator in ("inception", "features_file"):
            from progdistill.features.registry import find_or_publish_evaluator

            find_or_publish_evaluator(self._store, self._settings.evaluation, self._dataset)
        self._complete(PrepareEvaluatorSpec(**self._shared, evaluation=self._settings.evaluation))

    def evaluate(self, checkpoint: dict[str, Any], rung: int) -> dict[str, Any]:
        """Measure a checkpoint and its baseline at the steps of a rung; return the record."""
        baseline = baseline_of(self._store, load_manifest(self._store, checkpoint["id"]))
        spec = EvaluateSpec(
            **self._shared,
            world_size=world_size_of(self._settings, "evaluate"),
            checkpoint=checkpoint["id"],
            baseline=None if baseline is None else baseline.id,
            sampling_steps=self._settings.ladder[rung],
            evaluation=self._evaluation,
        )
        record = EvaluationRecord.model_validate_json(self._complete(spec).output)
        return record.model_dump(mode="json")

    @property
    def _evaluation(self) -> EvaluationSettings:
        """As set; a guided run is measured with the lowest guidance scale of its range."""
        evaluation, learned = self._settings.evaluation, self._settings.guidance_scale
        if evaluation.guidance_scale is not None or learned is None or learned.lowest == 1:
            return evaluation
        return evaluation.model_copy(update={"guidance_scale": learned.lowest})

    def report(
        self,
        checkpoints: list[dict[str, Any]],
        evaluations: list[dict[str, Any]],
        intervals: list[Interval],
        started_at: str,
    ) -> Path:
        """Write the report; return the path of its page."""
        from progdistill.run.report import write_report

        return write_report(
            self._prepared,
            self._store,
            (self._flow, self._run_id),
            self._folder,
            checkpoints,
            [EvaluationRecord.model_validate(record) for record in evaluations],
            intervals,
            datetime.fromisoformat(started_at),
        )

    @property
    def report_uri(self) -> str:
        """Where the report's page stands in the store."""
        return f"{self._store.uri}/{report_key(self._flow, self._run_id)}"

    def lineage_page(self, checkpoint_id: str) -> str:
        """The tree of teachers and students around a checkpoint, as a self-contained HTML page."""
        from progdistill.report.lineage_page import lineage_page as render_lineage

        tree = lineage_tree(self._store, checkpoint_id, unreadable=[])
        return render_lineage(self._store, tree, checkpoint_id)

    def _chosen_launcher(self) -> Launcher:
        folder = self._folder / "jobs"
        if self._settings.launcher is LauncherName.LOCAL:
            return LocalLauncher(folder, self._hear)
        from progdistill.jobs.kubernetes.launcher import KubernetesLauncher

        return KubernetesLauncher(self._store, self._settings.cluster, folder, self._hear)

    def _trained(self, kind: str) -> dict[str, Any]:
        """What every training's description has: the device decides the precision where nobody else does."""
        return {
            **self._shared,
            "world_size": world_size_of(self._settings, kind),
            "precision": precision_for(self._settings.compute, device_of(self._settings, kind)),
        }

    def _complete(self, spec: JobSpec) -> JobResult:
        import os

        request = JobRequest(
            spec=spec,
            store=self._settings.store,
            dataset=self._dataset,
            snapshots=self._settings.snapshots,
            compute=self._settings.compute,
            created_by=f"{self._flow}/{self._run_id}",
            configuration=self._settings.model_dump(mode="json"),
            driver_process_id=os.getpid(),
            live=self._settings.live,
        )
        outcome: JobOutcome = complete(self._store, self._launcher, request, self._hear)
        result = outcome.result
        if outcome.reused:
            print(f"{spec.label}: found finished in the store", flush=True)
        else:
            self.intervals.append((result.started_at.timestamp(), result.finished_at.timestamp()))
        return result

    def _hear(self, event: Event) -> None:
        self._event_file(event)
        self._on_event(event)

    def _recorded(self, checkpoint_id: str, rung: int, loss_curve: Any) -> dict[str, Any]:
        manifest = load_manifest(self._store, checkpoint_id)
        record_run_checkpoint(
            self._store, self._flow, self._run_id, self._settings.ladder[rung], checkpoint_id
        )
        reference: CheckpointRef = manifest.ref(self._store)
        return {**reference.model_dump(mode="json"), "loss_curve": [list(point) for point in loss_curve]}
