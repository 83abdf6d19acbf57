"""The paper's Table 1: what the network predicts, and how its loss is weighted; undistilled models.

    python -m benchmarks.paper.table_1

Prediction ε with the weight truncated SNR is refused: the paper found that it diverges.
"""

from benchmarks.paper.common import TOP, read_setup, settings_of, spread, undistilled, write_result

WEIGHTS = ("snr", "truncated_snr", "snr_plus_one")
GRIDS = ((("x", "x_eps", "v"), WEIGHTS), (("eps",), ("snr", "snr_plus_one")))
"""Predictions and loss weights that go together."""


def main() -> None:
    """Run the experiment and write its result."""
    setup = read_setup(__doc__)
    rows, figures = [["eps", "truncated_snr", "refused", "refused", "refused"]], []
    for predictions, weights in GRIDS:
        axes = (f"model.prediction={','.join(predictions)}", f"base.loss_weight={','.join(weights)}")
        report = undistilled(setup, "--over", axes[0], "--over", axes[1])
        for runs in settings_of(report).values():
            prediction, weight = (str(value) for value in runs[0].setting.values())
            teachers = [run.checkpoints[0] for run in runs if run.checkpoints]
            diverged = sum(run.diverged is not None for run in runs)
            cells = [
                spread([getattr(t, f) for t in teachers]) for f in ("distance", "baseline_ancestral", "inception_score")
            ]
            rows.append([prediction, weight, *([f"{diverged} of {len(runs)} diverged"] * 3 if diverged else cells)])
            figures += [
                {
                    **{"prediction": prediction, "loss_weight": weight, "seed": run.seed, "diverged": run.diverged},
                    **{"ddim": stage.distance, "ancestral": stage.baseline_ancestral},
                    "inception_score": stage.inception_score,
                }
                for run in runs
                for stage in run.checkpoints[:1]
            ]
    header = ["network predicts", "loss weight", f"DDIM, {TOP} steps", f"ancestral, {TOP} steps", "Inception Score"]
    write_result(setup, "table_1", report, header, rows, figures)


if __name__ == "__main__":
    main()
