"""What a report does not say, and why: no torch."""

from typing import Any

from progdistill.report.headline import steps_text
from progdistill.report.input import ReportInput


def left_out(run: ReportInput) -> list[str]:
    """A sentence for each thing that was not measured in this run, with its reason."""
    found = _unmeasured(run)
    measured = [stage for stage in run.checkpoints if stage.distance is not None]
    settings = _evaluation_settings(run)
    if measured and run.evaluator != "inception":
        found.append(
            f"FID and KID: they are defined on Inception's features, these figures are on the"
            f" {run.evaluator.replace('_', ' ')}'s (evaluation.evaluator = {run.evaluator})"
        )
    if measured and not any(stage.baseline_ddim for stage in measured):
        found.append("the undistilled model: the store has none that these checkpoints descend from")
    if measured and settings.get("tuned_gammas") == 0:
        found.append(
            "ancestral sampling at its best: the variance was not tuned for each number of steps"
            f" (evaluation.tuned_gammas = 0), γ is {settings.get('ancestral_gamma')} throughout"
        )
    if measured and settings.get("stochastic_students") is False:
        found.append(
            "stochastic sampling of the distilled models: not asked for"
            " (evaluation.stochastic_students = false)"
        )
    if measured and all(stage.kernel_distance is None for stage in measured):
        found.append(
            "kernel distance, precision and recall: they need the real images' features one by one,"
            " and the reference statistics that were given hold their mean and covariance alone"
        )
    return found


def _unmeasured(run: ReportInput) -> list[str]:
    """Checkpoints that were not measured; those that take too many steps all in one sentence."""
    limit = _evaluation_settings(run).get("max_sampling_steps")
    silent = [stage for stage in run.checkpoints if stage.not_evaluated_reason]
    slow = [stage.num_steps for stage in silent if limit is not None and stage.num_steps > limit]
    others = [
        f"{steps_text(stage.num_steps)}: {stage.not_evaluated_reason}"
        for stage in silent
        if stage.num_steps not in slow
    ]
    if not slow:
        return others
    steps = ", ".join(f"{num_steps:,}" for num_steps in slow)
    return [f"{steps} steps: more than evaluation.max_sampling_steps = {limit}", *others]


def _evaluation_settings(run: ReportInput) -> dict[str, Any]:
    settings = run.configuration.get("evaluation")
    return settings if isinstance(settings, dict) else {}
