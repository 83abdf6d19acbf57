"""The report as one HTML file that needs nothing else: no torch."""

from html import escape
from importlib.resources import files
from string import Template

from progdistill.report import html_parts as html
from progdistill.report import sample_sections, sections
from progdistill.report.headline import facts, headline
from progdistill.report.input import ReportInput

_LINKS = (
    ("distance", "Distance"),
    ("samples", "Samples"),
    ("classes", "Class by class"),
    ("neighbours", "Neighbours"),
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
        sample_sections.neighbours(run),
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
