"""The report's pictures of samples: no torch."""

from html import escape

from progdistill.evaluation.pictures import Pixels, decode_strip, enlarge, readable_scale
from progdistill.report import html_parts as html
from progdistill.report.headline import steps_text
from progdistill.report.input import NeighbourImages, ReportInput, SampleImages, StageEntry
from progdistill.report.samples_figure import COLUMNS, by_class, names_of, sample_row

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
        f"<span>{escape(steps_text(stage.num_steps))}</span>"
        + html.image(
            sample_row(found), f"{min(found.images, COLUMNS)} {what} samples at {steps_text(stage.num_steps)}"
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
            alt = f"Distilled samples at {steps_text(stage.num_steps)}, a column for each class"
            inner = f'<div class="classes">{_names(names_of(labels, run.class_names))}'
            figures.append(
                html.figure(f"{inner}{html.image(picture, alt)}</div>", steps_text(stage.num_steps))
            )
    if not figures:
        return ""
    text = "Each column holds samples of one class, from noise that differs down the column."
    return html.section(
        "Class by class", "classes", html.paragraph(text), f'<div class="trio">{"".join(figures)}</div>'
    )


def neighbours(run: ReportInput) -> str:
    """Samples of the model with fewest steps beside the training images nearest to them."""
    stage = next((stage for stage in reversed(run.checkpoints) if stage.neighbours is not None), None)
    if stage is None or stage.neighbours is None:
        return ""
    groups = "".join(_group(images, place) for place, images in enumerate(_groups_of(stage.neighbours)))
    orientation = ", each as stored or mirrored, whichever is nearer" if stage.neighbours.mirrored else ""
    caption = (
        f"Outlined, samples at {steps_text(stage.num_steps)}; beside each, the training images nearest to it"
        f" in pixels, the nearest first{orientation}. A model that had memorised its data would show the same"
        " image twice."
    )
    return html.section(
        "Nearest training images", "neighbours", html.figure(f'<div class="groups">{groups}</div>', caption)
    )


def _groups_of(found: NeighbourImages) -> list[Pixels]:
    columns = 1 + found.nearest
    images = decode_strip(found.png, found.samples * columns)
    return [images[place * columns : (place + 1) * columns] for place in range(found.samples)]


def _group(images: Pixels, place: int) -> str:
    """A sample and its neighbours, one picture each."""
    scale = readable_scale(images.shape[1])
    alts = [f"Sample {place + 1}"]
    alts += [f"Training image {rank} nearest to sample {place + 1}" for rank in range(1, len(images))]
    pictures = (html.image(enlarge(image, scale), alt) for image, alt in zip(images, alts, strict=True))
    return f'<div class="group">{"".join(pictures)}</div>'
