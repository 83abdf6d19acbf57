"""Several runs side by side."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from progdistill.errors import UsageError
from progdistill.models_base import Frozen
from progdistill.progress import format_duration
from progdistill.report import figures as theme
from progdistill.report import page as html
from progdistill.report.build import write_whole
from progdistill.report.figures import Curve, curves_of, draw_distance_chart
from progdistill.report.input import (
    ReportInput,
    counts_text,
    distance_label,
    distance_name_of,
    number,
    steps_text,
)
from progdistill.report.page import distance_svg, page


class Difference(Frozen):
    """One setting that is not the same in all runs, with each run's value."""

    path: str
    values: tuple[JsonValue, ...]


class Row(Frozen):
    """Each run's distance at one number of sampling steps; None where it was not measured."""

    sampling_steps: int
    distances: tuple[float | None, ...]


class Comparison(Frozen):
    """Runs measured in one distance, at equal sample counts."""

    run_ids: tuple[str, ...]
    distance_name: str
    rows: tuple[Row, ...]
    training_seconds: tuple[float, ...]
    differences: tuple[Difference, ...]


def compare_runs(runs: Sequence[ReportInput]) -> Comparison:
    """Compare the distances and the settings of runs.

    Raises UsageError where figures say nothing about each other: other datasets, evaluators or sample counts.
    """
    if len(runs) < 2:
        raise UsageError("a comparison needs at least two runs: progdistill compare RUN RUN …")
    distance_name = _measured_alike(runs)
    steps = sorted({stage.sampling_steps for run in runs for stage in run.checkpoints}, reverse=True)
    rows = [Row(sampling_steps=n, distances=tuple(_distance_at(run, n) for run in runs)) for n in steps]
    return Comparison(
        run_ids=tuple(run.run_id for run in runs),
        distance_name=distance_name,
        rows=tuple(row for row in rows if any(distance is not None for distance in row.distances)),
        training_seconds=tuple(sum(stage.seconds or 0.0 for stage in run.checkpoints) for run in runs),
        differences=_differences([run.configuration for run in runs]),
    )


def _measured_alike(runs: Sequence[ReportInput]) -> str:
    facts: dict[str, set[Any]] = {
        "dataset": {run.dataset_fingerprint for run in runs},
        "distance": {distance_name_of(run) for run in runs},
        "evaluator": {run.evaluator_id for run in runs},
        "reference statistics": {_given_reference(run) for run in runs},
        "guidance": {frozenset(s.guidance for s in run.checkpoints if s.distance) for run in runs},
        "sample counts": {
            frozenset(s.evaluated_samples for s in run.checkpoints if s.distance) for run in runs
        },
    }
    for name, values in facts.items():
        if len(values) > 1:
            raise UsageError(
                f"these runs differ in {name}, so their distances do not compare: run one again as it was,"
                " but with the other's evaluation (run --like CHECKPOINT --set evaluation.samples=N); its"
                " trainings are found done"
            )
    (distance_name,) = facts["distance"]
    if distance_name is None:
        raise UsageError("none of these runs was evaluated: there is nothing to compare")
    return str(distance_name)


def _given_reference(run: ReportInput) -> JsonValue:
    """The digest of published statistics that stood in for the dataset, None where none did."""
    settings = run.configuration.get("evaluation")
    return settings.get("reference_statistics_sha256") if isinstance(settings, dict) else None


def _distance_at(run: ReportInput, sampling_steps: int) -> float | None:
    return next((stage.distance for stage in run.checkpoints if stage.sampling_steps == sampling_steps), None)


def _differences(configurations: Sequence[dict[str, JsonValue]]) -> tuple[Difference, ...]:
    flat = [dict(_flattened(configuration)) for configuration in configurations]
    paths = sorted({path for settings in flat for path in settings})
    found = (Difference(path=path, values=tuple(s.get(path) for s in flat)) for path in paths)
    return tuple(d for d in found if any(value != d.values[0] for value in d.values))


def _flattened(value: JsonValue, path: str = "") -> list[tuple[str, JsonValue]]:
    """Every leaf of nested settings with its dotted path; a list is a leaf."""
    if not isinstance(value, dict):
        return [(path, value)]
    return [
        leaf for key, inner in value.items() for leaf in _flattened(inner, f"{path}.{key}" if path else key)
    ]


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
            color = theme.RUNS[place % len(theme.RUNS)]
            marker = _MARKERS[place % len(_MARKERS)]
            curves.append(own._replace(label=f"Run {run.run_id}", color=color, marker=marker))
    baseline = [c for c in curves_of(runs[0]) if c.label == "Undistilled, DDIM"]
    return curves + [
        c._replace(label=f"Undistilled, DDIM (run {runs[0].run_id})", color=theme.MUTED, dash=":")
        for c in baseline
    ]


def _page(comparison: Comparison, curves: Sequence[Curve], run: ReportInput) -> str:
    name = distance_label(comparison.distance_name)
    described = "; ".join(f"{c.label}: " + ", ".join(f"{d:.3g} at {s}" for s, d in c.points) for c in curves)
    counts = counts_text(run)
    svg = distance_svg(curves, comparison.distance_name, f"{name}. {described}")
    rows = [[f"{r.sampling_steps:,}", *(number(d) for d in r.distances)] for r in comparison.rows]
    rows.append(
        ["Training time of all checkpoints", *(format_duration(s) for s in comparison.training_seconds)]
    )
    changed = [[d.path, *(json.dumps(value) for value in d.values)] for d in comparison.differences]
    columns = frozenset(range(1 + len(comparison.run_ids)))
    title = f"Comparison of {len(comparison.run_ids)} runs"
    fewest = comparison.rows[-1].sampling_steps
    lead = (
        f"{name} of {counts}, from {steps_text(comparison.rows[0].sampling_steps)} to {steps_text(fewest)}:"
        " lower is nearer to the real images."
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
