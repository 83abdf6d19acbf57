"""The main result of a run, in words and in a few figures: no torch."""

from typing import NamedTuple

from progdistill.report.distance_chart import counts_text, distance_label, distance_name_of
from progdistill.report.input import ReportInput, StageEntry


class Fact(NamedTuple):
    """A figure and what it is."""

    value: str
    meaning: str


def steps_text(num_steps: int) -> str:
    """`1 step`, `4 steps`, `8,192 steps`."""
    return f"{num_steps:,} {'step' if num_steps == 1 else 'steps'}"


def number(value: float | None) -> str:
    """Three significant digits, whole above a thousand, a dash for nothing."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")


def headline(run: ReportInput) -> str:
    """One or two sentences that say what distillation gave."""
    teacher, student = _first_measured(run), _last_student(run)
    if student is None or student.distance is None:
        return "No distilled model was evaluated in this run."
    words = (
        f"With {steps_text(student.num_steps)} the distilled model's samples are at distance"
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
        words += f"; the {who} with {steps_text(teacher.num_steps)} is at {at}"
    name = distance_label(distance_name_of(run))
    return f"{words}. Distances are {name} of {counts_text(run)}: the lower, the nearer to real images."


def facts(run: ReportInput) -> list[Fact]:
    """A handful of figures for the top of the page."""
    found = []
    for stage in run.checkpoints:
        if stage.num_steps in (1, 2, 4) and stage.distance and stage.baseline_ddim and stage.kind != "base":
            gain = stage.baseline_ddim / stage.distance
            found.append(
                Fact(f"{gain:.3g} ×", f"nearer than undistilled DDIM at {steps_text(stage.num_steps)}")
            )
    return found[-3:]


def _first_measured(run: ReportInput) -> StageEntry | None:
    """The measured model with most steps."""
    return next((stage for stage in run.checkpoints if stage.distance is not None), None)


def _last_student(run: ReportInput) -> StageEntry | None:
    measured = [stage for stage in run.checkpoints if stage.kind == "student" and stage.distance is not None]
    return measured[-1] if measured else None
