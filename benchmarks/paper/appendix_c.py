"""The paper's Table 3 (Appendix C): integrators of the probability flow ODE, on one undistilled model.

    python -m benchmarks.paper.appendix_c

The models are those of `figure_4`: what the work folder has is not trained again.
"""

from benchmarks.paper.common import read_setup, spread, undistilled, write_result
from progdistill.data.dataset import default_data_root, find_dataset
from progdistill.diffusion.names import SamplerName
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.runner import MeasurementRunner
from progdistill.registry.checkpoint import load_manifest
from progdistill.store.open import open_store

STEPS = (32, 8)
SAMPLERS = {
    SamplerName.ANCESTRAL: ("stochastic, γ = 0", 1),
    SamplerName.EULER: ("Euler", 1),
    SamplerName.HEUN: ("Heun", 2),
    SamplerName.RK4: ("RK4", 4),
    SamplerName.DPM_SOLVER: ("DPM-Solver++(2M)", 1),
    SamplerName.DDIM: ("DDIM", 1),
}
"""What the table calls each sampler, and evaluations of the network in a step. Heun and DPM-Solver++ are additions."""


def main() -> None:
    """Run the experiment and write its result."""
    setup = read_setup(__doc__)
    report = undistilled(setup)
    store = open_store(report.store)
    info = find_dataset(report.dataset, default_data_root())
    settings = EvaluationSettings.model_validate(report.configuration["evaluation"])
    runner, figures, rows = MeasurementRunner(store, settings, info), [], []
    for sampler, (name, evaluations) in SAMPLERS.items():
        cells = []
        for steps in STEPS:
            found = []
            for run in report.runs:
                spec = runner.plan(load_manifest(store, run.checkpoints[0].id), None, steps)[0].spec
                gamma = 0.0 if sampler is SamplerName.ANCESTRAL else None
                measured = runner.run(spec.model_copy(update={"sampler": sampler, "gamma": gamma, "shown_samples": 0}))
                found.append(measured.distance)
                facts = {"sampler": str(sampler), "sampling_steps": steps, "seed": run.seed}
                figures.append({**facts, "distance": measured.distance})
            cells.append(spread(found))
        rows.append([name, str(evaluations), *cells])
    header = ["sampler", "evaluations a step", *(f"{steps} steps" for steps in STEPS)]
    write_result(setup, "appendix_c", report, header, rows, figures)


if __name__ == "__main__":
    main()
