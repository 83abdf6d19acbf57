"""The paper's Figure 4: distilled students against the undistilled model with DDIM and with tuned ancestral sampling.

    python -m benchmarks.paper.figure_4

The variance of ancestral sampling is tuned at each number of steps, on other noise than what is reported. Figure 6 is
made of the same runs: `figure_6` finds them in the work folder.
"""

from benchmarks.paper.common import read_setup, spread, stages_at, sweep, write_result
from benchmarks.paper.figure_6 import TUNED, figures_of

COLUMNS = {
    "distilled": "distance",
    "undistilled, DDIM": "baseline_ddim",
    "undistilled, tuned ancestral": "baseline_ancestral",
    "its γ": "baseline_ancestral_gamma",
}


def main() -> None:
    """Run the experiment and write its result."""
    setup = read_setup(__doc__)
    report = sweep(setup, *TUNED)
    teachers = [run.checkpoints[0].distance for run in report.runs]
    rows = []
    for steps in report.sampling_steps:
        stages = stages_at(report.runs, steps)
        ratios = [
            stage.distance / teacher
            for stage, teacher in zip(stages, teachers, strict=True)
            if stage.distance is not None and teacher is not None
        ]
        cells = [spread([getattr(stage, field) for stage in stages]) for field in COLUMNS.values()]
        rows.append([f"{steps:,}", *cells, spread(ratios)])
    header = ["sampling steps", *COLUMNS, "distilled ÷ teacher"]
    write_result(setup, "figure_4", report, header, rows, figures_of(report, COLUMNS.values()))


if __name__ == "__main__":
    main()
