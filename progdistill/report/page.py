"""The pages of the report room: Jinja templates in `templates/`, filled from the run's records."""

import functools
import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from progdistill.escape import printable
from progdistill.progress import format_duration
from progdistill.report.figures import curves_of, distance_charts, loss_charts
from progdistill.report.input import ReportInput, counts_text, distance_label, distance_name_of, steps_text
from progdistill.report.samples import class_grids, neighbor_groups, sample_rows
from progdistill.report.tables import cost_note, cost_table, facts, headline, omissions, quality_note, quality_table


def _printable(value: Any) -> Any:
    """Text without what a page cannot hold; Markup stays Markup."""
    if isinstance(value, Markup):
        return Markup(printable(value))
    return printable(value) if isinstance(value, str) else value


_environment = Environment(
    loader=PackageLoader("progdistill.report"),
    autoescape=True,
    finalize=_printable,
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


def report_page(run: ReportInput) -> str:
    """Return the report of a run as one HTML page with every figure inside it."""
    name, counts, curves = distance_label(distance_name_of(run)), counts_text(run), curves_of(run)
    return render(
        "report.html.j2",
        run=run,
        headline=headline(run),
        facts=facts(run),
        distance=name,
        counts=counts,
        charts=distance_charts(curves, distance_name_of(run), f"{name} of {counts}, by sampling steps"),
        samples=sample_rows(run),
        classes=class_grids(run),
        neighbors=neighbor_groups(run),
        quality=quality_table(run.checkpoints),
        quality_note=quality_note(run),
        cost=cost_table(run),
        cost_note=cost_note(run),
        omissions=omissions(run),
        losses=loss_charts(run.checkpoints),
    )
