"""Progressive distillation as a Metaflow flow; it reads as the paper's procedure (Algorithms 1 and 2)."""

from progdistill.run import metaflow_environment  # isort: skip  # noqa: F401  (Metaflow reads it on import)

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaflow import Config, FlowSpec, card, current, step
from metaflow.exception import MetaflowException

from progdistill.argo import DEFAULTS, RunParameters, read_deployment
from progdistill.config.options import RUN_OPTIONS, resolve_options
from progdistill.errors import ProgdistillError, UsageError
from progdistill.escape import printable
from progdistill.logs import as_line, is_json
from progdistill.store.files import usage_error_of

if TYPE_CHECKING:
    from progdistill.run.steps import RunSteps

LIVE_CARDS = "PROGDISTILL_LIVE_CARDS"
"""Environment variable: 0 leaves out the cards that are refreshed while a stage trains."""

PREPARED_RUN = "PROGDISTILL_PREPARED_RUN"
"""Environment variable: file with the run that the command has prepared, which `start` takes over."""

USAGE_ERROR = "PROGDISTILL_USAGE_ERROR"
"""Environment variable: file that a step creates when it ends with a usage error, for the command's exit status."""


def _live_card(function: Any) -> Any:
    """Add a live card to a step that trains, unless they are switched off: a card costs 1.2 s a task."""
    return function if os.environ.get(LIVE_CARDS) == "0" else card(type="blank", id="live")(function)


def one_message(function: Callable[[Any], None]) -> Callable[[Any], None]:
    """Raise an error of this package, or a full disk, as one of Metaflow's, which is shown without a traceback."""

    @wraps(function)
    def wrapper(self: Any) -> None:
        try:
            function(self)
        except (ProgdistillError, OSError) as error:
            known = error if isinstance(error, ProgdistillError) else usage_error_of(error)
            if known is None:
                raise
            if isinstance(known, UsageError) and (marker := os.environ.get(USAGE_ERROR)):
                Path(marker).touch()
            if is_json():  # Metaflow prints it as text
                print(as_line(str(known), level="ERROR"), file=sys.stderr, flush=True)
            raise MetaflowException(printable(str(known))) from None

    return wrapper


@RunParameters()
class DistillFlow(FlowSpec):
    """Train or import a diffusion model, halve its sampling steps stage by stage, evaluate and report."""

    deployment = Config("deployment", default_value=DEFAULTS, parser=read_deployment)

    @step
    @one_message
    def start(self) -> None:
        """Take over the prepared run; where there is none (in a pod), prepare it. Print the plan."""
        from progdistill.run.estimate import estimate
        from progdistill.run.prepare import PreparedRun, prepare_run

        if handed_over := os.environ.get(PREPARED_RUN):
            prepared = PreparedRun.model_validate_json(Path(handed_over).read_bytes())
        else:
            values = {option.field: getattr(self, option.field) for option in RUN_OPTIONS}
            # Argo passes a parameter that nobody set as an empty text.
            prepared = prepare_run(resolve_options({k: None if v == "" else v for k, v in values.items()}))
        print(as_line(f"{prepared.describe()}\n{estimate(prepared).describe()}"), flush=True)
        self.run_facts = prepared.model_dump(mode="json")
        self.started_at = datetime.now(UTC).isoformat()
        try:
            current.run.add_tags(prepared.tags)
        except MetaflowException as error:  # a metadata service that keeps no tags fails no run
            print(as_line(f"note: this run has no tags: {error}", level="WARNING"), flush=True)
        self.next(self.train_base)

    @_live_card
    @step
    @one_message
    def train_base(self) -> None:
        """Train the first teacher (Algorithm 1), or start from the checkpoint of --from."""
        run = self._run(live=True)
        self.checkpoint = run.first_teacher()
        self.stage_index = 0
        self.checkpoints = [self.checkpoint]
        self.intervals = run.intervals
        self.next(self.distill)

    @_live_card
    @step
    @one_message
    def distill(self) -> None:
        """One stage: the student learns to do in one step what its teacher does in two (Algorithm 2)."""
        run = self._run(live=True)
        self.teacher = self.checkpoint
        self.stage_index += 1
        self.student = run.distill(self.teacher, self.stage_index)
        self.checkpoint = self.student
        self.checkpoints = [*self.checkpoints, self.student]
        self.intervals = [*self.intervals, *run.intervals]
        self.what_next = "again" if run.has_stage(self.stage_index + 1) else "done"
        self.next({"again": self.distill, "done": self.plan_evaluation}, condition="what_next")

    @step
    @one_message
    def plan_evaluation(self) -> None:
        """Prepare the feature extractor once, and list what to measure."""
        run = self._run()
        run.prepare_evaluator()
        self.intervals = [*self.intervals, *run.intervals]
        self.rungs = list(range(len(self.checkpoints)))
        self.next(self.evaluate_fid, foreach="rungs")

    @step
    @one_message
    def evaluate_fid(self) -> None:
        """Measure one checkpoint, and the undistilled model at as many sampling steps, in the configured distance."""
        run = self._run()
        self.evaluation = run.evaluate(self.checkpoints[self.input], self.input)
        self.intervals_here = run.intervals
        self.next(self.collect)

    @step
    def collect(self, inputs: Any) -> None:
        """Collect the measurements in the order of the ladder."""
        self.merge_artifacts(inputs, include=["run_facts", "started_at", "checkpoints", "intervals", "checkpoint"])
        tasks = sorted(inputs, key=lambda task: -task.evaluation["sampling_steps"])
        self.evaluations = [task.evaluation for task in tasks]
        self.intervals = [*self.intervals, *(interval for task in tasks for interval in task.intervals_here)]
        self.next(self.report)

    @card(type="blank", id="report")
    @card(type="blank", id="lineage")
    @step
    @one_message
    def report(self) -> None:
        """Write the report of the run, and show it and the lineage as cards."""
        from progdistill.report.build import read_input
        from progdistill.report.card import embedded_page, report_components

        run = self._run()
        self.report_path = str(run.report(self.checkpoints, self.evaluations, self.intervals, self.started_at))
        self.report_uri = run.report_uri
        current.card["report"].extend(report_components(read_input(Path(self.report_path).parent)))
        lineage = run.lineage_page(self.checkpoints[-1]["id"])
        current.card["lineage"].append(embedded_page(lineage, "Lineage"))
        self.next(self.end)

    @step
    @one_message
    def end(self) -> None:
        """Print where the report is, and what the last student is called."""
        self._run()  # a run resumed here executes no other step
        student = f"{current.flow_name}/{current.run_id}/{self.checkpoints[-1]['sampling_steps']}"
        print(as_line(f"Report: {self.report_path}, and in the store {self.report_uri}"))
        print(as_line(f"Last student: {student}, for `progdistill sample`, `evaluate` and `export`"), flush=True)

    def _run(self, live: bool = False) -> "RunSteps":
        from progdistill.run.prepare import PreparedRun
        from progdistill.run.steps import RunSteps

        prepared = PreparedRun.model_validate(self.run_facts)
        run = RunSteps(prepared, current.flow_name, current.run_id)
        run.record(getattr(self, "checkpoints", []))  # a resumed run has some whose steps it did not execute
        if live and os.environ.get(LIVE_CARDS) != "0":
            run.show_on(current.card["live"])
        return run
