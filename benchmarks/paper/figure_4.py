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
    rows = [
        [
            f"{steps:,}",
            *(spread([getattr(s, field) for s in stages_at(report.runs, steps)]) for field in COLUMNS.values()),
        ]
        for steps in report.sampling_steps
    ]
    write_result(setup, "figure_4", report, ["sampling steps", *COLUMNS], rows, figures_of(report, COLUMNS.values()))


if __name__ == "__main__":
    main()
