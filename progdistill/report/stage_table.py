"""The table of a run's stages, as text for any page: no torch."""

from collections.abc import Sequence

from progdistill.progress import format_duration
from progdistill.report.input import StageEntry

STAGE_HEADER = (
    "Steps", "Kind", "Distance", "DDIM", "Ancestral", "Class score", "Precision", "Recall", "Updates",
    "Training images", "Time", "Images/s", "Device", "Checkpoint",
)  # fmt: skip
TEXT_COLUMNS = frozenset({0, 1, 12, 13})
STAGE_NOTE = (
    "Distance: the checkpoint with DDIM at its own number of steps. DDIM and Ancestral: the undistilled model"
    " at equally many steps. Class score: the Inception Score's formula on the evaluator's probabilities."
    " Updates, images and time are those of the stage's own training."
)


def stage_rows(stages: Sequence[StageEntry]) -> list[list[str]]:
    """One row a checkpoint: quality, then what it took."""
    return [
        [
            f"{s.num_steps:,}",
            s.kind,
            _number(s.distance),
            _number(s.baseline_ddim),
            _number(s.baseline_ancestral),
            _number(s.inception_score),
            _number(s.precision),
            _number(s.recall),
            _count(s.updates),
            _count(s.images),
            "–" if s.seconds is None else format_duration(s.seconds),
            "–" if s.images_per_second is None else f"{s.images_per_second:,.0f}",
            s.device or "–",
            s.id[:12],
        ]
        for s in stages
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:#.3g}".rstrip(".")


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
