"""The HTML page of a report."""

import base64
import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template

from progdistill.images import Pixels, encode_png
from progdistill.progress import format_duration
from progdistill.report import page as html
from progdistill.report import page as sections
from progdistill.report import samples as sample_sections
from progdistill.report.figures import (
    NARROW,
    WIDE,
    Curve,
    curves_of,
    draw_distance_chart,
    loss_panels,
    page_svg,
)
from progdistill.report.input import ReportInput, counts_text, distance_label, distance_name_of
from progdistill.report.tables import (
    cost_note,
    cost_table,
    facts,
    headline,
    omissions,
    quality_note,
    quality_table,
)


def section(title: str, anchor: str, *content: str) -> str:
    """A section with a heading that links can lead to; nothing at all when there is no content."""
    inside = "\n".join(part for part in content if part)
    return f'<section id="{anchor}">\n<h2>{escape(title)}</h2>\n{inside}\n</section>' if inside else ""


def paragraph(text: str, css_class: str = "") -> str:
    """A paragraph of plain text."""
    attribute = f' class="{css_class}"' if css_class else ""
    return f"<p{attribute}>{escape(text)}</p>"


def figure(inner: str, caption: str) -> str:
    """A figure around ready HTML."""
    return f"<figure>{inner}<figcaption>{escape(caption)}</figcaption></figure>"


def chart(svg: str, caption: str) -> str:
    """A figure around ready SVG."""
    return figure(f'<div class="chart">{svg}</div>', caption)


def image(picture: Pixels, alt: str) -> str:
    """A picture inside the page itself."""
    data = base64.b64encode(encode_png(picture)).decode()
    height, width = picture.shape[:2]
    described = escape(alt, quote=True)
    return f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{described}">'


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], text_columns: frozenset[int] = frozenset()
) -> str:
    """A table of plain text that scrolls sideways where it is too wide."""
    styles = [' class="text"' if column in text_columns else "" for column in range(len(header))]
    head = "".join(
        f'<th scope="col"{style}>{escape(cell)}</th>' for style, cell in zip(styles, header, strict=True)
    )
    body = "\n".join(
        "<tr>"
        + "".join(f"<td{style}>{escape(c)}</td>" for style, c in zip(styles, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of names and values."""
    return "<dl>" + "".join(f"<dt>{escape(n)}</dt><dd>{escape(v)}</dd>" for n, v in pairs) + "</dl>"


def details(summary: str, inner: str) -> str:
    """Ready HTML that opens on request."""
    return f"<details><summary>{escape(summary)}</summary>{inner}</details>"


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
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in omissions(run))
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
        f'<li><span class="key" style="background:var({color})"></span>{name} {format_duration(spent)}</li>'
        for name, spent, color in parts
    )
    busy = sum(seconds for _, seconds, _ in parts)
    bar = "".join(
        f'<span style="width:{100 * s / max(busy, 1e-9):.2f}%;background:var({color})"></span>'
        for _, s, color in parts
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
        ("FeatureExtractor", f"{run.evaluator}" + (f", {run.evaluator_id}" if run.evaluator_id else "")),
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


_LINKS = (
    ("distance", "Distance"),
    ("samples", "Samples"),
    ("classes", "Class by class"),
    ("neighbors", "Neighbors"),
    ("stages", "Stages"),
    ("left-out", "Not evaluated"),
    ("time", "Time"),
    ("losses", "Losses"),
    ("lineage", "Lineage"),
    ("provenance", "How it was made"),
)


def report_page(run: ReportInput) -> str:
    """The whole page, with every figure inside it."""
    parts = (
        sections.distances(run),
        sample_sections.samples(run),
        sample_sections.classes(run),
        sample_sections.neighbors(run),
        sections.stages(run),
        sections.not_evaluated(run),
        sections.time(run),
        sections.losses(run),
        sections.lineage(run),
        sections.provenance(run),
    )
    return page(f"Progressive distillation of {run.dataset} · run {run.run_id}", _header(run, parts), *parts)


def page(title: str, *parts: str) -> str:
    """A page in the report's look around ready HTML."""
    here = files("progdistill.report")
    template = Template(here.joinpath("template.html").read_text("utf-8"))
    style = here.joinpath("style.css").read_text("utf-8")
    return template.substitute(
        title=escape(title), style=style, body="\n".join(part for part in parts if part)
    )


def _header(run: ReportInput, parts: tuple[str, ...]) -> str:
    cards = "".join(f"<li><b>{escape(f.value)}</b><span>{escape(f.meaning)}</span></li>" for f in facts(run))
    present = "\n".join(parts)
    links = "".join(f'<a href="#{a}">{name}</a>' for a, name in _LINKS if f'<section id="{a}">' in present)
    return (
        f"<header>\n<h1>Progressive distillation of {escape(run.dataset)}</h1>\n"
        f'<p class="subtitle">Run {escape(run.run_id)} · {run.created_at:%-d %B %Y, %H:%M} UTC</p>\n'
        f"{html.paragraph(headline(run))}\n"
        + (f'<ul class="facts">{cards}</ul>\n' if cards else "")
        + f'<nav aria-label="Sections">{links}</nav>\n</header>'
    )
