"""The paper's Figure 12 (Appendix I): fewer updates per stage, and a factor of 4, each with the learning rate chosen.

    python -m benchmarks.paper.appendix_i

The learning rate of each schedule is the one with the least mean distance at one step.
"""

from benchmarks.paper.common import Setup, read_setup, settings_of, spread, stages_at, sweep, write_result
from progdistill.report.sweep import SweepReport, SweepRun

RATES = "distill.learning_rate=5e-4,1e-3,2e-3"
SHOWN = (16, 4, 1)
"""Sampling steps that both ladders have."""


def schedules(setup: Setup) -> tuple[SweepReport, dict[tuple[str, int], list[list[SweepRun]]]]:
    """The runs of every learning rate, by ladder and updates per stage."""
    updates, found = setup.updates_per_stage, dict[tuple[str, int], list[list[SweepRun]]]()
    for ladder, counts in (("64:1", (updates, updates // 2, updates // 4)), ("64:1:4", (updates,))):
        numbers = ",".join(map(str, counts))
        axes = ["--over", RATES] if len(counts) == 1 else ["--over", f"updates-per-stage={numbers}", "--over", RATES]
        report = sweep(setup, "--ladder", ladder, *axes)
        for runs in settings_of(report).values():
            count = int(str(runs[0].setting.get("updates-per-stage", updates)))
            found.setdefault((ladder, count), []).append(runs)
    return report, found


def main() -> None:
    """Run the experiment and write its result."""
    setup = read_setup(__doc__)
    report, found = schedules(setup)
    rows, figures = [], []
    for (ladder, updates), rates in found.items():
        best = min(rates, key=lambda runs: sum(stage.distance or 0.0 for stage in stages_at(runs, SHOWN[-1])))
        rate = f"{best[0].setting['distill.learning_rate']:g}"
        shown = [spread([stage.distance for stage in stages_at(best, steps)]) for steps in SHOWN]
        total = sum(stage.updates or 0 for stage in best[0].checkpoints[1:])
        rows.append([ladder, f"{updates:,}", f"{total:,}", rate, *shown])
        figures += [
            {
                **{"ladder": ladder, "updates_per_stage": updates, "seed": run.seed, **run.setting},
                "distances": {stage.sampling_steps: stage.distance for stage in run.checkpoints},
            }
            for runs in rates
            for run in runs
        ]
    steps = [f"{steps} step{'s' * (steps > 1)}" for steps in SHOWN]
    header = ["ladder", "updates of a stage", "of all stages", "learning rate", *steps]
    write_result(setup, "appendix_i", report, header, rows, figures)


if __name__ == "__main__":
    main()
