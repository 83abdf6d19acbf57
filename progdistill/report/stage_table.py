"""The tables of a run's stages, as text for any page: no torch."""

from collections.abc import Sequence
from typing import NamedTuple

from progdistill.progress import format_duration
from progdistill.report.distance_chart import counts_text, distance_label, distance_name_of
from progdistill.report.headline import number, steps_text
from progdistill.report.input import ReportInput, StageEntry


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
            f"{s.num_steps:,}",
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
            f"{s.num_steps:,}",
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
    earlier = [s for s in run.checkpoints if s.creator_run not in (None, f"{run.flow}/{run.run_id}")]
    if earlier:
        steps = ", ".join(steps_text(s.num_steps) for s in earlier)
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
