"""Samples of every stage from the same noise, beside the undistilled model's: the paper's Figure 3."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from progdistill.evaluation.pictures import Pixels, decode_strip, grid, readable_scale
from progdistill.report import theme
from progdistill.report.input import ReportInput, SampleImages, StageEntry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 10
"""Samples shown of each stage; the same column starts from the same noise everywhere."""


_LONGEST_NAME = 9
"""Letters of a class name that fit above its column."""


def sample_row(samples: SampleImages, columns: int = COLUMNS) -> Pixels:
    """The first `columns` samples next to each other, enlarged smoothly."""
    images = decode_strip(samples.png, samples.images)[:columns]
    return grid(images, columns=len(images), scale=readable_scale(images.shape[1]))


def draw_samples(run: ReportInput) -> "Figure":
    """One row a stage, most sampling steps first: distilled on the left, undistilled DDIM on the right."""
    stages = [stage for stage in run.checkpoints if stage.samples is not None]
    paired = any(stage.baseline_ddim_samples is not None for stage in stages)
    titles = ["Distilled", "Undistilled, DDIM"][: 1 + paired]
    figure = theme.new_figure(0.9 + 5.2 * len(titles), 0.9 + 0.56 * max(len(stages), 1))
    if not stages:
        axes = figure.subplots()
        axes.axis("off")
        axes.text(0.5, 0.5, "no samples were drawn", ha="center", color=theme.MUTED)
        return figure
    panels = figure.subplots(
        len(stages), len(titles), squeeze=False, gridspec_kw={"wspace": 0.03, "hspace": 0.0}
    )
    for row, stage in enumerate(stages):
        for column, samples in enumerate((stage.samples, stage.baseline_ddim_samples)[: len(titles)]):
            _show(panels[row][column], samples)
        _label(panels[row][0], stage)
    for column, title in enumerate(titles):
        panels[0][column].set_title(title, fontsize=13, pad=20)
        _name_classes(panels[0][column], stages[0].samples, run.class_names)
    return figure


def _name_classes(axes: "Axes", samples: SampleImages | None, class_names: tuple[str, ...]) -> None:
    """Write each column's class above it."""
    if samples is None or samples.labels is None:
        return
    names = names_of(samples.labels[:COLUMNS], class_names)
    for column, name in enumerate(names):
        place = (column + 0.5) / len(names)
        axes.text(
            place, 1.03, name, transform=axes.transAxes, ha="center", va="bottom", fontsize=9,
            color=theme.MUTED,
        )  # fmt: skip


def names_of(labels: Sequence[int], class_names: Sequence[str]) -> list[str]:
    """What to write above the columns of these classes: names, or numbers where there are none."""
    names = [class_names[label] if label < len(class_names) else str(label) for label in labels]
    return [name[:_LONGEST_NAME] for name in names]


def by_class(samples: SampleImages) -> tuple[Pixels, list[int]] | None:
    """A grid with a column a class, at most COLUMNS, and the classes; None where none has two images.

    Classes of a single image are left out; rows are as many as every other has images for.
    """
    if samples.labels is None:
        return None
    places = {label: [i for i, own in enumerate(samples.labels) if own == label] for label in samples.labels}
    classes = sorted(label for label, found in places.items() if len(found) > 1)[:COLUMNS]
    if not classes:
        return None
    rows = min(len(places[label]) for label in classes)
    images = decode_strip(samples.png, samples.images)
    chosen = images[[places[label][row] for row in range(rows) for label in classes]]
    return grid(chosen, columns=len(classes), scale=readable_scale(images.shape[1])), classes


def _show(axes: "Axes", samples: SampleImages | None) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if samples is not None:
        picture = sample_row(samples)
        axes.imshow(
            np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture, interpolation="antialiased"
        )


def _label(axes: "Axes", stage: StageEntry) -> None:
    unit = "step" if stage.num_steps == 1 else "steps"
    axes.set_ylabel(
        f"{stage.num_steps:,} {unit}", rotation=0, ha="right", va="center", labelpad=8, fontsize=12
    )
