"""Samples of every stage from the same noise, as a figure and as pictures for the page."""

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from progdistill.escape import one_line
from progdistill.images import Pixels, decode_contact_sheet, encode_png, enlarge, grid, readable_scale
from progdistill.report.figures import MUTED, new_figure, themed
from progdistill.report.input import ReportInput, SampleImages, steps_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 10
"""Samples shown per stage; a column starts from the same noise at every stage."""

CLASSES_AT_STAGES = 3
"""Number of stages, those of fewest steps, that are shown class by class."""

_LONGEST_NAME = 9
"""Letters of a class name that fit above its column."""


class Picture(NamedTuple):
    """An image inside the page: a data URI, its size in pixels and its alternative text."""

    uri: str
    width: int
    height: int
    alt: str


class SampleRows(NamedTuple):
    """One row of samples per stage."""

    title: str
    caption: str
    names: list[str]
    rows: list[tuple[str, Picture]]


class ClassGrid(NamedTuple):
    """Samples of one stage, a column per class."""

    names: list[str]
    picture: Picture
    caption: str


class NeighborGroups(NamedTuple):
    """Samples, each followed by its nearest training images."""

    groups: list[list[Picture]]
    steps: str
    mirrored: bool


def sample_rows(run: ReportInput) -> list[SampleRows]:
    """Samples of the distilled models, then of the undistilled model, from the same noise."""
    distilled = [(stage, stage.samples) for stage in run.checkpoints if stage.samples]
    undistilled = [(s, s.baseline_ddim_samples) for s in run.checkpoints if s.baseline_ddim_samples]
    parts = [
        ("Distilled", "All samples in a column start from the same noise.", distilled),
        ("Undistilled, DDIM", "From the same noise, with as many steps.", undistilled),
    ]
    sections = []
    for title, caption, found in parts:
        if found:
            kind = title.partition(",")[0].lower()
            rows = []
            for stage, images in found:
                steps = steps_text(stage.sampling_steps)
                alt = f"{min(images.images, COLUMNS)} {kind} samples at {steps}"
                rows.append((steps, _picture(_row(images), alt)))
            sections.append(SampleRows(title, caption, _titles(found[0][1], run.class_names), rows))
    return sections


def class_grids(run: ReportInput) -> list[ClassGrid]:
    """Several samples of each class, for the stages of fewest steps; none without classes.

    Classes with a single image are omitted. All columns are as long as the shortest.
    """
    grids = []
    for stage in run.checkpoints[-CLASSES_AT_STAGES:]:
        if (samples := stage.samples) is None or samples.labels is None:
            continue
        indices = {label: [i for i, own in enumerate(samples.labels) if own == label] for label in samples.labels}
        classes = sorted(label for label, found in indices.items() if len(found) > 1)[:COLUMNS]
        if not classes:
            continue
        rows = min(len(indices[label]) for label in classes)
        images = decode_contact_sheet(samples.png, samples.images)
        chosen = images[[indices[label][row] for row in range(rows) for label in classes]]
        pixels = grid(chosen, columns=len(classes), scale=readable_scale(images.shape[1]))
        steps = steps_text(stage.sampling_steps)
        picture = _picture(pixels, f"Distilled samples at {steps}, a column for each class")
        grids.append(ClassGrid(_names(classes, run.class_names), picture, steps))
    return grids


def neighbor_groups(run: ReportInput) -> NeighborGroups | None:
    """Samples of the model with fewest steps beside the training images nearest to them."""
    for stage in reversed(run.checkpoints):
        if (found := stage.neighbors) is None:
            continue
        columns = 1 + found.nearest
        images = decode_contact_sheet(found.png, found.samples * columns)
        scale = readable_scale(images.shape[1])
        groups = []
        for sample in range(found.samples):
            alts = [f"Sample {sample + 1}"]
            alts += [f"Training image {n} nearest to sample {sample + 1}" for n in range(1, columns)]
            own = images[sample * columns : (sample + 1) * columns]
            groups.append([_picture(enlarge(i, scale), alt) for i, alt in zip(own, alts, strict=True)])
        return NeighborGroups(groups, steps_text(stage.sampling_steps), found.mirrored)
    return None


@themed()
def draw_samples(run: ReportInput) -> "Figure":
    """Draw one row per stage, most sampling steps first: distilled left, undistilled DDIM right."""
    stages = [stage for stage in run.checkpoints if stage.samples is not None]
    paired = any(stage.baseline_ddim_samples is not None for stage in stages)
    titles = ["Distilled", "Undistilled, DDIM"][: 1 + paired]
    figure = new_figure(0.9 + 5.2 * len(titles), 0.9 + 0.56 * max(len(stages), 1))
    if not stages:
        axes = figure.subplots()
        axes.axis("off")
        axes.text(0.5, 0.5, "no samples were drawn", ha="center", color=MUTED)
        return figure
    panels = figure.subplots(len(stages), len(titles), squeeze=False, gridspec_kw={"wspace": 0.03, "hspace": 0.0})
    for row, stage in zip(panels, stages, strict=True):
        for axes, samples in zip(row, (stage.samples, stage.baseline_ddim_samples), strict=False):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if samples is not None:
                pixels = _row(samples)
                axes.imshow(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), interpolation="antialiased")
        steps = steps_text(stage.sampling_steps)
        row[0].set_ylabel(steps, rotation=0, ha="right", va="center", labelpad=8, fontsize=12)
    names = _titles(stages[0].samples, run.class_names)
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontsize=13, pad=20)
        for column, name in enumerate(names):
            x = (column + 0.5) / len(names)
            axes.text(x, 1.03, name, transform=axes.transAxes, ha="center", va="bottom", fontsize=9, color=MUTED)
    return figure


def _row(samples: SampleImages) -> Pixels:
    """The first samples next to each other, enlarged smoothly."""
    images = decode_contact_sheet(samples.png, samples.images)[:COLUMNS]
    return grid(images, columns=len(images), scale=readable_scale(images.shape[1]))


def _titles(samples: SampleImages | None, class_names: Sequence[str]) -> list[str]:
    """What to write above the columns: prompts, or names of classes."""
    if samples is None or samples.prompts is None:
        return _names(None if samples is None else samples.labels, class_names)
    return [one_line(prompt)[:_LONGEST_NAME] for prompt in samples.prompts[:COLUMNS]]


def _names(labels: Sequence[int] | None, class_names: Sequence[str]) -> list[str]:
    """Names to write above the columns, numbers for classes without a name; empty without labels."""
    names = [class_names[n] if n < len(class_names) else str(n) for n in (labels or ())[:COLUMNS]]
    return [one_line(name)[:_LONGEST_NAME] for name in names]


def _picture(pixels: Pixels, alt: str) -> Picture:
    height, width = pixels.shape[:2]
    data = base64.b64encode(encode_png(pixels)).decode()
    return Picture(f"data:image/png;base64,{data}", width, height, alt)
