"""The table of stages, its headline, and what the report omits."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from progdistill.progress import format_duration
from progdistill.report.input import (
    ReportInput,
    StageEntry,
    counts_text,
    distance_label,
    distance_name_of,
    number,
    steps_text,
)


class Fact(NamedTuple):
    """A figure and what it is."""

    value: str
    meaning: str


def headline(run: ReportInput) -> str:
    """One or two sentences that say what distillation gave."""
    teacher, student = _first_measured(run), _last_student(run)
    if student is None or student.distance is None:
        return "No distilled model was evaluated in this run."
    words = (
        f"With {steps_text(student.sampling_steps)} the distilled model's samples are at distance"
        f" {number(student.distance)}"
    )
    if student.baseline_ddim and student.distance:
        words += f", where the undistilled model with DDIM is at {number(student.baseline_ddim)}"
    if teacher is not None and teacher.distance:
        share, who = (
            student.distance / teacher.distance,
            "student" if teacher.kind == "student" else "teacher",
        )
        at = f"{number(teacher.distance)} ({share:.2f} ×)"
        words += f"; the {who} with {steps_text(teacher.sampling_steps)} is at {at}"
    name = distance_label(distance_name_of(run))
    return f"{words}. Distances are {name} of {counts_text(run)}: the lower, the nearer to real images."


def facts(run: ReportInput) -> list[Fact]:
    """A handful of figures for the top of the page."""
    found = []
    for stage in run.checkpoints:
        if (
            stage.sampling_steps in (1, 2, 4)
            and stage.distance
            and stage.baseline_ddim
            and stage.kind != "base"
        ):
            gain = stage.baseline_ddim / stage.distance
            found.append(
                Fact(f"{gain:.3g} ×", f"nearer than undistilled DDIM at {steps_text(stage.sampling_steps)}")
            )
    return found[-3:]


def _first_measured(run: ReportInput) -> StageEntry | None:
    """The measured model with most steps."""
    return next((stage for stage in run.checkpoints if stage.distance is not None), None)


def _last_student(run: ReportInput) -> StageEntry | None:
    measured = [stage for stage in run.checkpoints if stage.kind == "student" and stage.distance is not None]
    return measured[-1] if measured else None


def omissions(run: ReportInput) -> list[str]:
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
    slow = [stage.sampling_steps for stage in silent if limit is not None and stage.sampling_steps > limit]
    others = [
        f"{steps_text(stage.sampling_steps)}: {stage.not_evaluated_reason}"
        for stage in silent
        if stage.sampling_steps not in slow
    ]
    if not slow:
        return others
    steps = ", ".join(f"{sampling_steps:,}" for sampling_steps in slow)
    return [f"{steps} steps: more than evaluation.max_sampling_steps = {limit}", *others]


def _evaluation_settings(run: ReportInput) -> dict[str, Any]:
    settings = run.configuration.get("evaluation")
    return settings if isinstance(settings, dict) else {}


class TextTable(NamedTuple):
    """Headings, rows of equally many cells, and which columns are words rather than figures."""

    header: tuple[str, ...]
    rows: list[list[str]]
    text_columns: frozenset[int]


def quality_note(run: ReportInput) -> str:
    """What the columns of the quality table are: the distance's true name and the number of samples too."""
    counts, name = counts_text(run), distance_label(distance_name_of(run))
    return (
        f"Distance: {name}{f' of {counts}' if counts else ''}, the checkpoint sampled with DDIM"
        " at its own number of steps. DDIM and Ancestral: the undistilled model at equally"
        " many steps. Class score: the Inception Score's formula on the evaluator's probabilities."
    )


def quality_table(stages: Sequence[StageEntry]) -> TextTable:
    """One row a checkpoint: how near its samples come to the real images."""
    header = (
        "Steps", "Kind", "Distance", "DDIM", "Ancestral", "Kernel distance", "Precision", "Recall",
        "Class score",
    )  # fmt: skip
    rows = [
        [
            f"{s.sampling_steps:,}",
            s.kind,
            number(s.distance),
            number(s.baseline_ddim),
            number(s.baseline_ancestral),
            number(s.kernel_distance),
            number(s.precision),
            number(s.recall),
            number(s.inception_score),
        ]
        for s in stages
    ]
    return TextTable(header, rows, frozenset({0, 1}))


def cost_table(run: ReportInput) -> TextTable:
    """One row a checkpoint, then their sum: what training and measuring it took."""
    priced = run.price_per_hour is not None
    header = (
        "Steps",
        "Checkpoint",
        "Updates",
        "Images",
        "Training",
        "Images/s",
        "Evaluation",
        "Cost",
        "Device",
    )
    rows = [
        [
            f"{s.sampling_steps:,}",
            s.id[:12],
            _count(s.updates),
            _count(s.images),
            _duration(s.seconds),
            "–" if s.images_per_second is None else f"{s.images_per_second:,.0f}",
            _duration(evaluating_seconds(s)),
            _cost(machine_seconds(s), run.price_per_hour),
            s.device or "–",
        ]
        for s in run.checkpoints
    ]
    stages = run.checkpoints
    total = sum(machine_seconds(s) for s in stages)
    rows.append(
        [
            "All",
            "",
            _count(sum(s.updates or 0 for s in stages)),
            _count(sum(s.images or 0 for s in stages)),
            _duration(sum(s.seconds or 0.0 for s in stages)),
            "",
            _duration(sum(evaluating_seconds(s) for s in stages)),
            _cost(total, run.price_per_hour),
            "",
        ]
    )
    if priced:
        return TextTable(header, rows, frozenset({0, 1, 8}))
    return TextTable((*header[:7], "Machine time", *header[8:]), rows, frozenset({0, 1, 8}))


def cost_note(run: ReportInput) -> str:
    """What the columns of the cost table are, and which rows an earlier run paid for."""
    note = "Evaluation: sampling and measuring the stage, baselines included. "
    if run.price_per_hour is not None:
        note += f"Cost: training and evaluation at {run.price_per_hour:g} an hour of one machine."
    else:
        note += "Machine time: training and evaluation together, as if one after the other."
    earlier = [s for s in run.checkpoints if s.created_by not in (None, f"{run.flow}/{run.run_id}")]
    if earlier:
        steps = ", ".join(steps_text(s.sampling_steps) for s in earlier)
        note += f" Trained by an earlier run and taken from the store: {steps}."
    return note


def evaluating_seconds(stage: StageEntry) -> float:
    """Seconds of drawing and measuring a stage's samples."""
    return (stage.sampling_seconds or 0.0) + (stage.evaluation_seconds or 0.0)


def machine_seconds(stage: StageEntry) -> float:
    """Seconds of a machine that a stage took, training and evaluation."""
    return (stage.seconds or 0.0) + evaluating_seconds(stage)


def _duration(seconds: float | None) -> str:
    return format_duration(seconds) if seconds else "–"


def _cost(seconds: float, price_per_hour: float | None) -> str:
    if price_per_hour is None:
        return _duration(seconds)
    return f"{seconds / 3600 * price_per_hour:,.2f}"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
