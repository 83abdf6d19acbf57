"""Samples of every stage from the same noise, as a figure and as sections of the page."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from progdistill.images import Pixels, decode_contact_sheet, grid, readable_scale
from progdistill.report import figures as theme
from progdistill.report.input import ReportInput, SampleImages, StageEntry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
from html import escape

from progdistill.images import enlarge
from progdistill.report import page as html
from progdistill.report.input import NeighborImages, steps_text

COLUMNS = 10
"""Samples shown of each stage; the same column starts from the same noise everywhere."""


_LONGEST_NAME = 9
"""Letters of a class name that fit above its column."""


def sample_row(samples: SampleImages, columns: int = COLUMNS) -> Pixels:
    """The first `columns` samples next to each other, enlarged smoothly."""
    images = decode_contact_sheet(samples.png, samples.images)[:columns]
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
    images = decode_contact_sheet(samples.png, samples.images)
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
    unit = "step" if stage.sampling_steps == 1 else "steps"
    axes.set_ylabel(
        f"{stage.sampling_steps:,} {unit}", rotation=0, ha="right", va="center", labelpad=8, fontsize=12
    )


_Row = tuple[StageEntry, SampleImages]
CLASSES_AT_STAGES = 3
"""Stages, those of fewest steps, that are shown class by class."""


def samples(run: ReportInput) -> str:
    """Samples of every stage from the same noise, then of the undistilled model."""
    distilled = [(stage, stage.samples) for stage in run.checkpoints if stage.samples]
    undistilled = [(s, s.baseline_ddim_samples) for s in run.checkpoints if s.baseline_ddim_samples]
    tables = (
        _sample_rows(
            distilled,
            "Distilled",
            "Down a column, all samples start from the same noise.",
            "distilled",
            run.class_names,
        ),
        _sample_rows(
            undistilled,
            "Undistilled, DDIM",
            "From the same noise, with as many steps.",
            "undistilled",
            run.class_names,
        ),
    )
    present = "".join(table for table in tables if table)
    return html.section("Samples", "samples", f'<div class="pair">{present}</div>' if present else "")


def _sample_rows(rows: list[_Row], title: str, caption: str, what: str, class_names: tuple[str, ...]) -> str:
    if not rows:
        return ""
    body = "".join(
        f"<span>{escape(steps_text(stage.sampling_steps))}</span>"
        + html.image(
            sample_row(found),
            f"{min(found.images, COLUMNS)} {what} samples at {steps_text(stage.sampling_steps)}",
        )
        for stage, found in rows
    )
    labels = rows[0][1].labels
    head = "" if labels is None else f"<span></span>{_names(names_of(labels[:COLUMNS], class_names))}"
    inner = f'<h3>{escape(title)}</h3><div class="samples">{head}{body}</div>'
    return html.figure(inner, caption)


def _names(names: list[str]) -> str:
    """Names above the columns of a picture that is as wide."""
    return '<div class="columns">' + "".join(f"<span>{escape(name)}</span>" for name in names) + "</div>"


def classes(run: ReportInput) -> str:
    """Several samples of each class, where there are classes, for the stages of fewest steps."""
    figures = []
    for stage in run.checkpoints[-CLASSES_AT_STAGES:]:
        found = by_class(stage.samples) if stage.samples is not None else None
        if found is not None:
            picture, labels = found
            alt = f"Distilled samples at {steps_text(stage.sampling_steps)}, a column for each class"
            inner = f'<div class="classes">{_names(names_of(labels, run.class_names))}'
            figures.append(
                html.figure(f"{inner}{html.image(picture, alt)}</div>", steps_text(stage.sampling_steps))
            )
    if not figures:
        return ""
    text = "Each column holds samples of one class, from noise that differs down the column."
    return html.section(
        "Class by class", "classes", html.paragraph(text), f'<div class="trio">{"".join(figures)}</div>'
    )


def neighbors(run: ReportInput) -> str:
    """Samples of the model with fewest steps beside the training images nearest to them."""
    stage = next((stage for stage in reversed(run.checkpoints) if stage.neighbors is not None), None)
    if stage is None or stage.neighbors is None:
        return ""
    groups = "".join(_group(images, place) for place, images in enumerate(_groups_of(stage.neighbors)))
    orientation = ", each as stored or mirrored, whichever is nearer" if stage.neighbors.mirrored else ""
    caption = (
        f"Outlined, samples at {steps_text(stage.sampling_steps)}; beside each, the training images"
        f" nearest to it in pixels, the nearest first{orientation}. A model that had memorized its data would"
        " show the same image twice."
    )
    return html.section(
        "Nearest training images", "neighbors", html.figure(f'<div class="groups">{groups}</div>', caption)
    )


def _groups_of(found: NeighborImages) -> list[Pixels]:
    columns = 1 + found.nearest
    images = decode_contact_sheet(found.png, found.samples * columns)
    return [images[place * columns : (place + 1) * columns] for place in range(found.samples)]


def _group(images: Pixels, place: int) -> str:
    """A sample and its neighbors, one picture each."""
    scale = readable_scale(images.shape[1])
    alts = [f"Sample {place + 1}"]
    alts += [f"Training image {rank} nearest to sample {place + 1}" for rank in range(1, len(images))]
    pictures = (html.image(enlarge(image, scale), alt) for image, alt in zip(images, alts, strict=True))
    return f'<div class="group">{"".join(pictures)}</div>'
