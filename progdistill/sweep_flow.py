"""A sweep as a Metaflow flow: runs with every combination of some settings, compared over seeds."""

from progdistill.run import metaflow_environment  # isort: skip  # noqa: F401  (Metaflow reads it on import)

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaflow import Config, FlowSpec, card, current, step
from metaflow.exception import MetaflowException

from progdistill.argo import DEFAULTS, SweepParameters, read_sweep_deployment
from progdistill.config.sweep import SWEEP_OPTIONS, resolve_sweep
from progdistill.errors import NonFiniteError
from progdistill.flow import PREPARED_RUN, one_message
from progdistill.logs import as_line

if TYPE_CHECKING:
    from progdistill.run.steps import RunSteps
    from progdistill.run.sweep import PreparedSweep


@SweepParameters()
class SweepFlow(FlowSpec):
    """Run a grid of settings with several seeds, and compare the students.

    A run of the sweep is the one that `DistillFlow` makes with the same options: their jobs are the same.
    """

    deployment = Config("deployment", default_value=DEFAULTS, parser=read_sweep_deployment)

    @step
    @one_message
    def start(self) -> None:
        """Take over the prepared sweep; where there is none (in a pod), prepare it. Print the plan."""
        from progdistill.run.sweep import PreparedSweep, prepare_sweep

        if handed_over := os.environ.get(PREPARED_RUN):
            prepared = PreparedSweep.model_validate_json(Path(handed_over).read_bytes())
        else:
            values = {option.field: getattr(self, option.field) for option in SWEEP_OPTIONS}
            # Argo passes a parameter that nobody set as an empty text.
            prepared = prepare_sweep(resolve_sweep({k: None if v == "" else v for k, v in values.items()}))
        print(as_line(prepared.describe()), flush=True)
        self.sweep = prepared.model_dump(mode="json")
        self.started_at = datetime.now(UTC).isoformat()
        try:
            current.run.add_tags([f"dataset:{prepared.members[0].run.dataset.name}"])
        except MetaflowException as error:  # a metadata service that keeps no tags fails no run
            print(as_line(f"note: this run has no tags: {error}", level="WARNING"), flush=True)
        self.next(self.prepare_evaluator)

    @step
    @one_message
    def prepare_evaluator(self) -> None:
        """Prepare the feature extractor once, and list what runs have in common."""
        self._run(0).prepare_evaluator()
        self.families = self._sweep().families
        self.next(self.train_shared, foreach="families")

    @step
    @one_message
    def train_shared(self) -> None:
        """Train and measure the checkpoints that several runs have in common, so that none is made twice."""
        self.members, self.diverged, sweep = self.input, {}, self._sweep()
        for member in self.members:
            try:
                self._run(member).train_and_measure(sweep.shared_rungs(member))
            except NonFiniteError as error:
                print(as_line(f"{sweep.members[member]} diverged: {error}"), flush=True)
                self.diverged[member] = str(error)
        self.next(self.run_member, foreach="members")

    @step
    @one_message
    def run_member(self) -> None:
        """Do one run to its report; what is in the store already is not done again."""
        from progdistill.run.sweep_report import MemberResult

        result = MemberResult(member=self.input, diverged=self.diverged.get(self.input))
        if result.diverged is None:
            run = self._run(self.input)
            try:
                checkpoints, evaluations = run.train_and_measure()
                run.report(checkpoints, evaluations, run.intervals, self.started_at)
                ids = tuple(checkpoint["id"] for checkpoint in checkpoints)
                result = MemberResult(member=self.input, checkpoints=ids, evaluations=tuple(evaluations))
            except NonFiniteError as error:
                print(as_line(f"{self._sweep().members[self.input]} diverged: {error}"), flush=True)
                result = MemberResult(member=self.input, diverged=str(error))
        self.result = result.model_dump(mode="json")
        self.next(self.collect_family)

    @step
    def collect_family(self, inputs: Any) -> None:
        """Collect the results of runs that have checkpoints in common."""
        self.merge_artifacts(inputs, include=["sweep"])
        self.results = [task.result for task in inputs]
        self.next(self.collect)

    @step
    def collect(self, inputs: Any) -> None:
        """Collect the results in the order of the plan."""
        self.merge_artifacts(inputs, include=["sweep"])
        results = [result for task in inputs for result in task.results]
        self.results = sorted(results, key=lambda result: int(result["member"]))
        self.next(self.report)

    @card(type="blank", id="report")
    @step
    @one_message
    def report(self) -> None:
        """Compare the settings over their seeds, name the best, and show the report as a card."""
        from progdistill.report.card import embedded_page
        from progdistill.run.sweep_report import MemberResult, write_sweep_report

        results = [MemberResult.model_validate(result) for result in self.results]
        page, self.report_uri, summary = write_sweep_report(self._sweep(), results, current.flow_name, current.run_id)
        self.report_path = str(page)
        print(as_line(summary), flush=True)
        current.card["report"].append(embedded_page(page.read_text(encoding="utf-8"), "Sweep"))
        self.next(self.end)

    @step
    @one_message
    def end(self) -> None:
        """Print where the report is."""
        print(as_line(f"Report: {self.report_path}, and in the store {self.report_uri}"), flush=True)

    def _sweep(self) -> "PreparedSweep":
        from progdistill.run.sweep import PreparedSweep

        return PreparedSweep.model_validate(self.sweep)

    def _run(self, member: int) -> "RunSteps":
        """A run of the sweep; its id is that of the sweep with the member's number."""
        from progdistill.run.steps import RunSteps

        return RunSteps(self._sweep().members[member].run, current.flow_name, f"{current.run_id}.{member}")
