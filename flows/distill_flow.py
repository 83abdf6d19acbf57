"""Progressive distillation as a Metaflow flow; it reads as the paper's procedure (Algorithms 1 and 2).

python flows/distill_flow.py run --dataset digits
"""

import argparse
import os
import sys
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path

from progdistill.training.accelerators import accelerators_here

if os.environ.get("USER", "root") == "root":
    os.environ.setdefault("METAFLOW_USER", "progdistill")  # Metaflow refuses root
os.environ.setdefault("METAFLOW_DATASTORE_SYSROOT_LOCAL", os.getcwd())  # else it is searched upward

# The headers hold the metadata service's key; pods have that from a Secret, not from the readable workflow.
os.environ.setdefault("METAFLOW_ARGO_WORKFLOWS_ENV_VARS_TO_SKIP", "METAFLOW_SERVICE_HEADERS")

# More tasks at once than cores only slow one another down; a job takes all accelerators there are.
os.environ.setdefault(
    "METAFLOW_RUN_MAX_WORKERS", str(1 if accelerators_here().number else os.cpu_count() or 1)
)
os.environ.setdefault("METAFLOW_RESUME_MAX_WORKERS", os.environ["METAFLOW_RUN_MAX_WORKERS"])

from metaflow import Config, FlowSpec, Parameter, card, current, step
from metaflow.exception import MetaflowException
from metaflow.metaflow_config import DEFAULT_DATASTORE
from on_argo import DEFAULTS, OnArgo, read_deployment

import progdistill  # noqa: F401  (brings the package along into remote tasks)
from progdistill.config.options import (
    RUN_OPTIONS,
    field_name,
    options_from_namespace,
    parse_run_options,
)
from progdistill.errors import ProgdistillError, UsageError

LIVE_CARDS = "PROGDISTILL_LIVE_CARDS"
"""Environment variable: 0 leaves out the cards that are refreshed while a stage trains."""


def _live_card(function):
    """A card for a step that trains, unless they are left out: it costs 1.2 s a task."""
    return function if os.environ.get(LIVE_CARDS) == "0" else card(type="blank", id="live")(function)


def _in_one_message(function):
    """Show an error of ours, which says what to do, without a traceback: as one of Metaflow's."""

    @wraps(function)
    def told(self):
        try:
            function(self)
        except ProgdistillError as error:
            raise MetaflowException(str(error)) from None

    return told


def _parameter(name: str) -> Parameter:
    option = next(option for option in RUN_OPTIONS if option.name == name)
    repeat = {"multiple": True, "default": ()} if option.repeatable else {"default": None}
    return Parameter(name, type=option.type, help=option.help, **repeat)


@OnArgo()
class DistillFlow(FlowSpec):
    """Train or import a diffusion model, halve its sampling steps stage by stage, evaluate and report."""

    deployment = Config("deployment", default_value=DEFAULTS, parser=read_deployment)

    dataset = _parameter("dataset")
    ladder = _parameter("ladder")
    target_steps = _parameter("target-steps")
    from_ = _parameter("from")
    like = _parameter("like")
    preset = _parameter("preset")
    store = _parameter("store")
    launcher = _parameter("launcher")
    seed = _parameter("seed")
    base_updates = _parameter("base-updates")
    updates_per_stage = _parameter("updates-per-stage")
    guidance = _parameter("guidance")
    set = _parameter("set")

    @step
    @_in_one_message
    def start(self):
        """Resolve and validate the whole configuration, and print the plan."""
        from progdistill.run.estimate import estimate
        from progdistill.run.prepare import prepare_run

        names = [field_name(option.name) for option in RUN_OPTIONS]
        # Argo hands on what nobody set as an empty text; what was typed for `run` has been checked before.
        values = {name: None if getattr(self, name) == "" else getattr(self, name) for name in names}
        prepared = prepare_run(options_from_namespace(values))
        print(prepared.describe(), estimate(prepared).describe(), sep="\n", flush=True)
        self.run_facts = prepared.model_dump(mode="json")
        self.started_at = datetime.now(UTC).isoformat()
        self.next(self.train_base)

    @_live_card
    @step
    @_in_one_message
    def train_base(self):
        """Train the first teacher (Algorithm 1), or take the one of --from."""
        run = self._run(live=True)
        self.checkpoint = run.first_teacher()
        self.stage_index = 0
        self.checkpoints = [self.checkpoint]
        self.intervals = run.intervals
        self.next(self.distill)

    @_live_card
    @step
    @_in_one_message
    def distill(self):
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
    @_in_one_message
    def plan_evaluation(self):
        """Make the evaluator ready, once, and list what is to be measured."""
        run = self._run()
        run.prepare_evaluator()
        self.intervals = [*self.intervals, *run.intervals]
        self.rungs = list(range(len(self.checkpoints)))
        self.next(self.evaluate_fid, foreach="rungs")

    @step
    @_in_one_message
    def evaluate_fid(self):
        """Measure one checkpoint beside the undistilled model at equally many steps."""
        run = self._run()
        self.evaluation = run.evaluate(self.checkpoints[self.input], self.input)
        self.intervals_here = run.intervals
        self.next(self.collect)

    @step
    def collect(self, inputs):
        """Gather the measurements in the ladder's order."""
        self.merge_artifacts(
            inputs, include=["run_facts", "started_at", "checkpoints", "intervals", "checkpoint"]
        )
        self.evaluations = [
            i.evaluation for i in sorted(inputs, key=lambda i: i.evaluation["sampling_steps"])
        ][::-1]
        self.intervals = [*self.intervals, *(one for i in inputs for one in i.intervals_here)]
        self.next(self.report)

    @card(type="blank", id="report")
    @card(type="blank", id="lineage")
    @step
    @_in_one_message
    def report(self):
        """Write the report of the run, and show it and the lineage as cards."""
        from progdistill.report.build import read_input
        from progdistill.report.card import embedded_page, report_components

        run = self._run()
        self.report_path = str(
            run.report(self.checkpoints, self.evaluations, self.intervals, self.started_at)
        )
        self.report_uri = run.report_uri
        current.card["report"].extend(report_components(read_input(Path(self.report_path).parent)))
        lineage = run.lineage_page(self.checkpoints[-1]["id"])
        current.card["lineage"].append(embedded_page(lineage, "Lineage"))
        self.next(self.end)

    @step
    @_in_one_message
    def end(self):
        """Say where the report is."""
        self._run()  # resumed here, a run executes nothing else
        print(f"Report: {self.report_path}, and in the store {self.report_uri}", flush=True)

    def _run(self, live=False):
        from progdistill.run.steps import RunSteps

        run = RunSteps(self.run_facts, current.flow_name, current.run_id)
        run.hold(getattr(self, "checkpoints", []))  # a resumed run has some whose steps it did not execute
        if live and os.environ.get(LIVE_CARDS) != "0":
            run.show_on(current.card["live"])
        return run


def main() -> None:
    """Check a `run` before Metaflow starts anything; on failure say how to go on."""
    from progdistill.errors import Interrupted
    from progdistill.jobs.forkserver import nursery
    from progdistill.signals import StopSignals

    verb = next((word for word in sys.argv[1:] if word in ("run", "resume")), None)
    if verb is None or "--help" in sys.argv:
        DistillFlow()
        return
    try:
        if verb == "run":
            from progdistill.run.prepare import prepare_run

            prepared = prepare_run(parse_run_options(sys.argv[sys.argv.index("run") + 1 :]))
            os.environ.setdefault(LIVE_CARDS, "1" if prepared.trains_long else "0")
        else:
            _check_origin()
    except ProgdistillError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    # Metaflow answers Ctrl-C, and so a supervisor's SIGTERM, by ending its tasks and leaving with status 1.
    with StopSignals() as signals:
        try:
            with nursery():
                DistillFlow()
        except (KeyboardInterrupt, SystemExit) as leaving:
            signals.ignore()
            status = getattr(leaving, "code", 1)
            if signals.received:
                status = Interrupted.exit_status
                _ask_about_jobs_left()
            if status not in (0, None) and current.run_id:
                _say_how_to_go_on()
            sys.exit(status)


def _check_origin() -> None:
    """Refuse to resume a run that is not here, where that can be seen: Metaflow ends in a traceback."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--origin-run-id")
    parser.add_argument("--datastore", default=DEFAULT_DATASTORE)
    asked, _ = parser.parse_known_args()
    if asked.origin_run_id is None or asked.datastore != "local":
        return
    folder = Path(os.environ["METAFLOW_DATASTORE_SYSROOT_LOCAL"], ".metaflow", "DistillFlow")
    known = sorted(found.name for found in folder.glob("[0-9]*"))
    if asked.origin_run_id not in known:
        there_is = f"there are {', '.join(known)}" if known else "there is none: start where it ran"
        raise UsageError(f"no run {asked.origin_run_id!r} in {folder.parents[1].absolute()}; {there_is}")


def _ask_about_jobs_left() -> None:
    """Jobs in a cluster outlive an interrupted run; its steps have no terminal to ask at, this may."""
    from progdistill.run.prepare import runs_folder

    jobs = runs_folder() / str(current.run_id) / "jobs"
    if list(jobs.glob("*.left.json")):
        from progdistill.jobs.kubernetes.launcher import ask_about_left

        try:
            ask_about_left(jobs)
        except ProgdistillError as error:
            print(f"error: {error}", file=sys.stderr)


def _say_how_to_go_on() -> None:
    # Metaflow's file `latest_run` is shared by all drivers of a folder, and no `resume` is written there.
    print(f"To go on: python {sys.argv[0]} resume --origin-run-id {current.run_id}", file=sys.stderr)


if __name__ == "__main__":
    main()
