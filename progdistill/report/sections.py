"""The sections of the report, each from the run's input alone: no torch."""

import json
from collections.abc import Sequence
from html import escape

from progdistill.progress import format_duration
from progdistill.report import html_parts as html
from progdistill.report.distance_chart import (
    NARROW,
    WIDE,
    Curve,
    counts_text,
    curves_of,
    distance_label,
    distance_name_of,
    draw_distance_chart,
)
from progdistill.report.input import ReportInput
from progdistill.report.left_out import left_out
from progdistill.report.loss_chart import loss_panels
from progdistill.report.stage_table import cost_note, cost_table, quality_note, quality_table
from progdistill.report.theme import page_svg


def distances(run: ReportInput) -> str:
    """Distance against sampling steps."""
    curves, metric = curves_of(run), distance_name_of(run)
    name, counts = distance_label(metric), counts_text(run)
    described = "; ".join(f"{c.label}: " + ", ".join(f"{d:.3g} at {s}" for s, d in c.points) for c in curves)
    caption = (
        f"{name} between samples and the training images, against the number of sampling steps, on"
        f" logarithmic axes. {f'Each point is {counts} from the same noise. ' if counts else ''}Lower is"
        " nearer; figures compare at equal sample counts and with the same evaluator only."
    )
    chart = html.chart(
        distance_svg(curves, metric, f"{name} of {counts}, by sampling steps. {described}"), caption
    )
    return html.section("Distance against sampling steps", "distance", chart)


def distance_svg(curves: Sequence[Curve], distance_name: str | None, description: str) -> str:
    """The chart twice, for a page's width and for a phone's; the style shows the one that fits."""
    sizes = (("on-wide", WIDE), ("on-narrow", NARROW))
    drawn = (
        (css_class, page_svg(draw_distance_chart(curves, distance_name, size=size), description))
        for css_class, size in sizes
    )
    return "".join(f'<div class="{css_class}">{svg}</div>' for css_class, svg in drawn)


def not_evaluated(run: ReportInput) -> str:
    """What was not measured, with reasons."""
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in left_out(run))
    return html.section(
        "What was not evaluated", "left-out", f'<ul class="reasons">{reasons}</ul>' if reasons else ""
    )


def stages(run: ReportInput) -> str:
    """Two tables of one row a checkpoint: quality, and what it took."""
    return html.section(
        "Stages",
        "stages",
        html.table(*quality_table(run.checkpoints)),
        html.paragraph(quality_note(run), "note"),
        html.table(*cost_table(run)),
        html.paragraph(cost_note(run), "note"),
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
    stored = (
        f"Taken from the store: {format_duration(t.stored_seconds)} of training, sampling and evaluation that"
        " earlier runs did, no part of the above."
    )
    drawing = f'<div class="bar" aria-hidden="true">{bar}</div><ul class="keys">{keys}</ul>'
    return html.section(
        "Where the time went",
        "time",
        drawing,
        html.paragraph(text),
        html.paragraph(stored, "note") if t.stored_seconds else "",
    )


def losses(run: ReportInput) -> str:
    """Loss curves of all stages."""
    panels = loss_panels(run.checkpoints)
    if not panels:
        return ""
    drawn = "".join(page_svg(panel, f"Training loss of the {name} against updates") for name, panel in panels)
    caption = (
        "Training loss against parameter updates, on a logarithmic axis. A student's target is its teacher,"
        " so losses of different stages do not compare."
    )
    return html.section("Training loss", "losses", html.figure(f'<div class="panels">{drawn}</div>', caption))


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
