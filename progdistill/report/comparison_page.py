"""The comparison of several runs as a page and a picture: no torch."""

import json
from collections.abc import Sequence
from pathlib import Path

from progdistill.progress import format_duration
from progdistill.report import html_parts as html
from progdistill.report import theme
from progdistill.report.comparison import Comparison, compare_runs
from progdistill.report.distance_chart import (
    Curve,
    counts_text,
    curves_of,
    distance_label,
    draw_distance_chart,
)
from progdistill.report.files import write_whole
from progdistill.report.headline import number, steps_text
from progdistill.report.input import ReportInput
from progdistill.report.page import page
from progdistill.report.sections import distance_svg

_MARKERS = "os^Dv"


def build_comparison(runs: Sequence[ReportInput], out: Path) -> Path:
    """Write comparison.html, comparison.json and comparison.png into `out`; return the HTML's path.

    Raises UsageError where the runs do not compare.
    """
    comparison = compare_runs(runs)
    out.mkdir(parents=True, exist_ok=True)
    curves = comparison_curves(runs)
    title, note = "Distance against sampling steps", counts_text(runs[0])
    chart = draw_distance_chart(curves, comparison.distance_name, title, note)
    write_whole(out / "comparison.png", theme.png(chart))
    write_whole(out / "comparison.json", (comparison.model_dump_json(indent=2) + "\n").encode())
    write_whole(out / "comparison.html", _page(comparison, curves, runs[0]).encode())
    return out / "comparison.html"


def comparison_curves(runs: Sequence[ReportInput]) -> list[Curve]:
    """The distilled curve of each run, then the undistilled DDIM of the first."""
    curves = []
    for place, run in enumerate(runs):
        own = next((curve for curve in curves_of(run) if curve.label == "Distilled"), None)
        if own is not None:
            colour = theme.RUNS[place % len(theme.RUNS)]
            marker = _MARKERS[place % len(_MARKERS)]
            curves.append(own._replace(label=f"Run {run.run_id}", colour=colour, marker=marker))
    baseline = [c for c in curves_of(runs[0]) if c.label == "Undistilled, DDIM"]
    return curves + [
        c._replace(label=f"Undistilled, DDIM (run {runs[0].run_id})", colour=theme.MUTED, dash=":")
        for c in baseline
    ]


def _page(comparison: Comparison, curves: Sequence[Curve], run: ReportInput) -> str:
    name = distance_label(comparison.distance_name)
    described = "; ".join(f"{c.label}: " + ", ".join(f"{d:.3g} at {s}" for s, d in c.points) for c in curves)
    counts = counts_text(run)
    svg = distance_svg(curves, comparison.distance_name, f"{name}. {described}")
    rows = [[f"{r.num_steps:,}", *(number(d) for d in r.distances)] for r in comparison.rows]
    rows.append(
        ["Training time of all checkpoints", *(format_duration(s) for s in comparison.training_seconds)]
    )
    changed = [[d.path, *(json.dumps(value) for value in d.values)] for d in comparison.differences]
    columns = frozenset(range(1 + len(comparison.run_ids)))
    title = f"Comparison of {len(comparison.run_ids)} runs"
    fewest = comparison.rows[-1].num_steps
    lead = (
        f"{name} of {counts}, from {steps_text(comparison.rows[0].num_steps)} to {steps_text(fewest)}: lower"
        " is nearer to the real images."
    )
    return page(
        title,
        f"<header><h1>{title}</h1>{html.paragraph(lead)}</header>",
        html.section(
            "Distance against sampling steps",
            "distance",
            html.chart(svg, f"{name} of {counts}, logarithmic axes."),
        ),
        html.section("Distances", "distances", html.table(("Steps", *comparison.run_ids), rows)),
        html.section(
            "What differs in the settings",
            "settings",
            html.table(("Setting", *comparison.run_ids), changed, columns) if changed else "",
        ),
    )
