"""The pages of the report room: Jinja templates in `templates/`, filled from the run's records."""

import functools
import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from progdistill.progress import format_duration
from progdistill.report.figures import (
    NARROW,
    WIDE,
    Curve,
    curves_of,
    describe_curves,
    draw_distance_chart,
    loss_panels,
    to_svg,
)
from progdistill.report.input import ReportInput, counts_text, distance_label, distance_name_of, steps_text
from progdistill.report.samples import class_grids, neighbor_groups, sample_rows
from progdistill.report.tables import cost_note, cost_table, facts, headline, omissions, quality_note, quality_table

_environment = Environment(
    loader=PackageLoader("progdistill.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {
    "duration": format_duration,
    "json": functools.partial(json.dumps, indent=2, sort_keys=True),
    "steps": steps_text,
}
_environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}  # keys keep their order


def render(template: str, **context: Any) -> str:
    """Fill a template of this room. Text is escaped; only `Markup` is taken as HTML."""
    return _environment.get_template(template).render(context)


def distance_charts(curves: list[Curve], distance_name: str | None, description: str) -> dict[str, Markup]:
    """Draw the chart for a desktop page and for a phone; style.css shows the one that fits."""
    return {
        name: Markup(to_svg(draw_distance_chart(curves, distance_name, size=size), description, f"distance-{name}"))
        for name, size in (("wide", WIDE), ("narrow", NARROW))
    }


def report_page(run: ReportInput) -> str:
    """Return the report of a run as one HTML page with every figure inside it."""
    name, counts, curves = distance_label(distance_name_of(run)), counts_text(run), curves_of(run)
    description = f"{name} of {counts}, by sampling steps. {describe_curves(curves)}"
    losses = [
        Markup(to_svg(figure, f"Training loss of the {label} against updates", f"loss-{index}"))
        for index, (label, figure) in enumerate(loss_panels(run.checkpoints))
    ]
    return render(
        "report.html.j2",
        run=run,
        headline=headline(run),
        facts=facts(run),
        distance=name,
        counts=counts,
        charts=distance_charts(curves, distance_name_of(run), description),
        samples=sample_rows(run),
        classes=class_grids(run),
        neighbors=neighbor_groups(run),
        quality=quality_table(run.checkpoints),
        quality_note=quality_note(run),
        cost=cost_table(run),
        cost_note=cost_note(run),
        omissions=omissions(run),
        losses=losses,
    )
