"""The paper's Figure 6: students sampled stochastically, with a tuned variance.

python -m benchmarks.paper.figure_6
"""

from collections.abc import Iterable
from typing import Any

from benchmarks.paper.common import read_setup, spread, stages_at, sweep, write_result
from progdistill.report.sweep import SweepReport

TUNED = (
    *("--set", "evaluation.stochastic_students=true", "--set", "evaluation.tuned_gammas=6"),
    *("--set", "evaluation.tuning_samples=500"),
)
"""Six values of γ from 0 to 1; the paper tries eleven."""

COLUMNS = {
    "distilled, DDIM": "distance",
    "distilled, tuned ancestral": "distilled_ancestral",
    "undistilled, tuned ancestral": "baseline_ancestral",
    "undistilled, DDIM": "baseline_ddim",
}


def figures_of(report: SweepReport, fields: Iterable[str]) -> list[dict[str, Any]]:
    """Fields of every checkpoint of every run."""
    return [
        {"seed": run.seed, "sampling_steps": stage.sampling_steps, **{field: getattr(stage, field) for field in fields}}
        for run in report.runs
        for stage in run.checkpoints
    ]


def main() -> None:
    """Run the experiment and write its result."""
    setup = read_setup(__doc__)
    report = sweep(setup, *TUNED)
    students = report.sampling_steps[1:]  # the undistilled model is the top of the ladder
    rows = [
        [
            f"{steps:,}",
            *(spread([getattr(s, field) for s in stages_at(report.runs, steps)]) for field in COLUMNS.values()),
        ]
        for steps in students
    ]
    write_result(setup, "figure_6", report, ["sampling steps", *COLUMNS], rows, figures_of(report, COLUMNS.values()))


if __name__ == "__main__":
    main()
