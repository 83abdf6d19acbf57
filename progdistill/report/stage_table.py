"""The tables of a run's stages, as text for any page: no torch."""

from collections.abc import Sequence
from typing import NamedTuple

from progdistill.progress import format_duration
from progdistill.report.input import StageEntry


class TextTable(NamedTuple):
    """Headings, rows of equally many cells, and which columns are words rather than figures."""

    header: tuple[str, ...]
    rows: list[list[str]]
    text_columns: frozenset[int]


QUALITY_NOTE = (
    "Distance: the checkpoint with DDIM at its own number of steps. DDIM and Ancestral: the undistilled model"
    " at equally many steps. Class score: the Inception Score's formula on the evaluator's probabilities."
)
TRAINING_NOTE = "Updates, images and time are those of the stage's own training."


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


def training_table(stages: Sequence[StageEntry]) -> TextTable:
    """One row a checkpoint: what it took."""
    header = ("Steps", "Checkpoint", "Updates", "Images", "Time", "Images/s", "Device")
    rows = [
        [
            f"{s.num_steps:,}",
            s.id[:12],
            _count(s.updates),
            _count(s.images),
            "–" if s.seconds is None else format_duration(s.seconds),
            "–" if s.images_per_second is None else f"{s.images_per_second:,.0f}",
            s.device or "–",
        ]
        for s in stages
    ]
    return TextTable(header, rows, frozenset({0, 1, 6}))


def number(value: float | None) -> str:
    """Three significant digits, a dash for nothing."""
    return "–" if value is None else f"{value:#.3g}".rstrip(".")


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
