"""The sections of the report, each from the run's input alone: no torch."""

import json
from html import escape

from progdistill.evaluation.pictures import decode_strip, grid, readable_scale
from progdistill.progress import format_duration
from progdistill.report import html_parts as html
from progdistill.report.distance_chart import curves_of, distance_label, distance_name_of, draw_distance_chart
from progdistill.report.headline import steps_text
from progdistill.report.input import ReportInput, SampleImages, StageEntry
from progdistill.report.loss_chart import draw_losses
from progdistill.report.samples_figure import COLUMNS, sample_row
from progdistill.report.stage_table import QUALITY_NOTE, TRAINING_NOTE, quality_table, training_table
from progdistill.report.theme import page_svg


def distances(run: ReportInput) -> str:
    """Distance against sampling steps, and what was left out."""
    curves = curves_of(run)
    name = distance_label(distance_name_of(run))
    described = "; ".join(f"{c.label}: " + ", ".join(f"{d:.3g} at {s}" for s, d in c.points) for c in curves)
    svg = page_svg(
        draw_distance_chart(curves, distance_name_of(run), ""), f"{name} by sampling steps. {described}"
    )
    counts = sorted({stage.evaluated_samples for stage in run.checkpoints if stage.evaluated_samples})
    samples = (
        f" Each point is {' or '.join(f'{c:,}' for c in counts)} samples from the same noise."
        if counts
        else ""
    )
    caption = (
        f"{name} between samples and the training images, against the number of sampling steps, on"
        f" logarithmic axes.{samples} Lower is nearer; figures compare at equal sample counts and with the"
        " same evaluator only."
    )
    reasons = "".join(
        f"<li>{escape(steps_text(s.num_steps))}: {escape(s.not_evaluated_reason)}</li>"
        for s in run.checkpoints
        if s.not_evaluated_reason
    )
    left_out = f'<p class="note">Not evaluated:</p><ul class="note">{reasons}</ul>' if reasons else ""
    return html.section("Distance against sampling steps", "distance", html.chart(svg, caption), left_out)


def samples(run: ReportInput) -> str:
    """Samples of every stage from the same noise, then of the undistilled model."""
    distilled = [(stage, stage.samples) for stage in run.checkpoints]
    undistilled = [(stage, stage.baseline_ddim_samples) for stage in run.checkpoints]
    tables = (
        _sample_table(distilled, "Distilled: in every row a column starts from the same noise.", "distilled"),
        _sample_table(undistilled, "Undistilled, DDIM: the same noise, as many steps.", "undistilled"),
    )
    present = "".join(table for table in tables if table)
    return html.section("Samples", "samples", f'<div class="pair">{present}</div>' if present else "")


def _sample_table(rows: list[tuple[StageEntry, SampleImages | None]], caption: str, what: str) -> str:
    shown = [(stage, found) for stage, found in rows if found is not None]
    if not shown:
        return ""
    body = "".join(
        f'<tr><th scope="row">{escape(steps_text(stage.num_steps))}</th><td>'
        + html.image(
            sample_row(found), f"{min(found.images, COLUMNS)} {what} samples at {steps_text(stage.num_steps)}"
        )
        + "</td></tr>"
        for stage, found in shown
    )
    return html.figure(
        f'<div class="wide"><table class="samples"><tbody>{body}</tbody></table></div>', caption
    )


def neighbours(run: ReportInput) -> str:
    """Samples of the model with fewest steps beside the training images nearest to them."""
    stage = next((stage for stage in reversed(run.checkpoints) if stage.neighbours is not None), None)
    if stage is None or stage.neighbours is None:
        return ""
    found = stage.neighbours
    columns = 1 + found.nearest
    images = decode_strip(found.png, found.samples * columns)
    scale = readable_scale(images.shape[1])
    pictures = "".join(
        html.image(
            grid(images[place * columns : (place + 1) * columns], columns=columns, scale=scale),
            f"Sample {place + 1} and its {found.nearest} nearest training images",
        )
        for place in range(found.samples)
    )
    caption = (
        f"Samples at {steps_text(stage.num_steps)} (first of each group) and the training images nearest to"
        " each in pixels: a model that had memorised its data would show the same image twice."
    )
    return html.section(
        "Nearest training images", "neighbours", html.figure(f'<div class="groups">{pictures}</div>', caption)
    )


def stages(run: ReportInput) -> str:
    """Two tables of one row a checkpoint: quality, and what it took."""
    return html.section(
        "Stages",
        "stages",
        html.table(*quality_table(run.checkpoints)),
        html.paragraph(QUALITY_NOTE, "note"),
        html.table(*training_table(run.checkpoints)),
        html.paragraph(TRAINING_NOTE, "note"),
    )


def time(run: ReportInput) -> str:
    """Where the wall-clock time went."""
    if run.timings is None:
        return ""
    t = run.timings
    parts = (
        ("Training", t.training_seconds, "--distilled"),
        ("Sampling", t.sampling_seconds, "--ddim"),
        ("Evaluation", t.evaluation_seconds, "--ancestral"),
    )
    keys = "".join(
        f'<li><span class="key" style="background:var({colour})"></span>{name} {format_duration(spent)}</li>'
        for name, spent, colour in parts
    )
    busy = sum(seconds for _, seconds, _ in parts)
    bar = "".join(
        f'<span style="width:{100 * s / max(busy, 1e-9):.2f}%;background:var({colour})"></span>'
        for _, s, colour in parts
    )
    text = (
        f"{format_duration(t.total_seconds)} from start to report. Stages are evaluated side by side where"
        " there is room, so the parts may add up to more. Outside of training, sampling and evaluation the"
        f" flow spent {t.overhead_seconds_per_stage:.1f} s a stage."
    )
    drawing = f'<div class="bar" aria-hidden="true">{bar}</div><ul class="keys">{keys}</ul>'
    return html.section("Where the time went", "time", drawing, html.paragraph(text))


def losses(run: ReportInput) -> str:
    """Loss curves of all stages."""
    chart = draw_losses(run.checkpoints)
    if chart is None:
        return ""
    svg = page_svg(chart, "Training loss against parameter updates, one panel a stage")
    caption = (
        "Training loss against parameter updates. A student's target is its teacher, so scales are its own."
    )
    return html.section("Training loss", "losses", html.chart(svg, caption))


def lineage(run: ReportInput) -> str:
    """The tree of teachers and students."""
    drawing = f"<pre>{escape(run.lineage)}</pre>" if run.lineage else ""
    return html.section("Lineage", "lineage", drawing)


def provenance(run: ReportInput) -> str:
    """What it takes to make the run again, and to trust its figures."""
    pairs = (
        ("Dataset", f"{run.dataset}, fingerprint {run.dataset_fingerprint}"),
        ("Evaluator", f"{run.evaluator}" + (f", {run.evaluator_id}" if run.evaluator_id else "")),
        ("Seed", str(run.seed)),
        ("Code", run.code_version),
        ("Store", run.store),
        ("Run", f"{run.flow}/{run.run_id}"),
    )
    configuration = escape(json.dumps(run.configuration, indent=2, sort_keys=True))
    return html.section(
        "How it was made",
        "provenance",
        html.definitions(pairs),
        html.details("Whole configuration", f"<pre>{configuration}</pre>"),
    )
