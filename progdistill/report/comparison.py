"""Several runs side by side."""

import json
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from pydantic import JsonValue

from progdistill.errors import UsageError
from progdistill.models_base import Frozen, leaves
from progdistill.notebook import html_table
from progdistill.progress import format_duration
from progdistill.report.figures import MUTED, RUN_COLORS, Curve, curves_of, distance_charts, draw_distance_chart, to_png
from progdistill.report.input import ReportInput, counts_text, distance_label, distance_name_of, number
from progdistill.report.page import render
from progdistill.store.files import atomic_write


class Difference(Frozen):
    """A setting that differs between runs, with each run's value."""

    path: str
    values: tuple[JsonValue, ...]


class Row(Frozen):
    """Each run's distance at one number of sampling steps; None where it was not measured."""

    sampling_steps: int
    distances: tuple[float | None, ...]


class Comparison(Frozen):
    """Runs measured in the same distance at equal sample counts."""

    run_ids: tuple[str, ...]
    distance_name: str
    rows: tuple[Row, ...]
    training_seconds: tuple[float, ...]
    differences: tuple[Difference, ...]

    def _repr_html_(self) -> str:
        """Distances, times and differing settings, as a notebook shows them."""
        rows = [[f"{row.sampling_steps:,} steps", *map(number, row.distances)] for row in self.rows]
        rows.append(["training time", *map(format_duration, self.training_seconds)])
        rows += [[difference.path, *map(json.dumps, difference.values)] for difference in self.differences]
        head = [distance_label(self.distance_name), *(f"run {run_id}" for run_id in self.run_ids)]
        return html_table(rows, head)


def compare_runs(runs: Sequence[ReportInput]) -> Comparison:
    """Compare the distances and settings of two or more runs.

    Raises:
        UsageError: The distances are not comparable (different dataset, feature extractor, reference statistics,
            guidance or sample counts), or nothing was evaluated.
    """
    if len(runs) < 2:
        raise UsageError("a comparison needs at least two runs: progdistill compare RUN RUN …")
    distance_name = _common_distance(runs)
    measured = [{stage.sampling_steps: stage.distance for stage in run.checkpoints} for run in runs]
    steps = sorted({n for distances in measured for n in distances}, reverse=True)
    rows = [Row(sampling_steps=n, distances=tuple(distances.get(n) for distances in measured)) for n in steps]
    return Comparison(
        run_ids=tuple(run.run_id for run in runs),
        distance_name=distance_name,
        rows=tuple(row for row in rows if any(distance is not None for distance in row.distances)),
        training_seconds=tuple(sum(stage.seconds or 0.0 for stage in run.checkpoints) for run in runs),
        differences=_differences([run.configuration for run in runs]),
    )


def _common_distance(runs: Sequence[ReportInput]) -> str:
    measured = [[stage for stage in run.checkpoints if stage.distance] for run in runs]
    facts: dict[str, set[object]] = {
        "dataset": {run.dataset_fingerprint for run in runs},
        "distance": {distance_name_of(run) for run in runs},
        "feature extractor": {run.evaluator_id for run in runs},
        "reference statistics": {run.evaluation_setting("reference_statistics_sha256") for run in runs},
        "guidance scale": {frozenset(stage.guidance_scale for stage in stages) for stages in measured},
        "sample counts": {frozenset(stage.evaluated_samples for stage in stages) for stages in measured},
    }
    for name, values in facts.items():
        if len(values) > 1:
            raise UsageError(
                f"the runs differ in {name}, so their distances are not comparable; repeat one with the"
                " other's evaluation: progdistill run --reproduce CHECKPOINT --set evaluation.samples=N"
                " (finished training jobs are reused)"
            )
    if (distance_name := distance_name_of(runs[0])) is None:
        raise UsageError("none of these runs was evaluated: there is nothing to compare")
    return distance_name


def _differences(configurations: Sequence[dict[str, JsonValue]]) -> tuple[Difference, ...]:
    flat = [dict(leaves(configuration)) for configuration in configurations]
    paths = sorted({path for settings in flat for path in settings})
    found = (Difference(path=path, values=tuple(s.get(path) for s in flat)) for path in paths)
    return tuple(d for d in found if any(value != d.values[0] for value in d.values))


def comparison_curves(runs: Sequence[ReportInput]) -> list[Curve]:
    """Return the distilled curve of each run, then the undistilled DDIM of the first."""
    curves = []
    for run, color, marker in zip(runs, cycle(RUN_COLORS), cycle("os^Dv"), strict=False):
        distilled = [curve for curve in curves_of(run) if curve.label == "Distilled"]
        curves += [curve._replace(label=f"Run {run.run_id}", color=color, marker=marker) for curve in distilled]
    undistilled = [curve for curve in curves_of(runs[0]) if curve.label == "Undistilled, DDIM"]
    return curves + [
        curve._replace(label=f"{curve.label} (run {runs[0].run_id})", color=MUTED, line=":") for curve in undistilled
    ]


def build_comparison(runs: Sequence[ReportInput], out: Path) -> Path:
    """Write comparison.html, comparison.json and comparison.png into `out`; return the HTML's path.

    Raises what `compare_runs` raises.
    """
    comparison = compare_runs(runs)
    out.mkdir(parents=True, exist_ok=True)
    curves = comparison_curves(runs)
    title, note = "Distance against sampling steps", counts_text(runs[0])
    chart = draw_distance_chart(curves, comparison.distance_name, title, note)
    atomic_write(out / "comparison.png", to_png(chart))
    atomic_write(out / "comparison.json", (comparison.model_dump_json(indent=2) + "\n").encode())
    distance = distance_label(comparison.distance_name)
    rows = [[f"{row.sampling_steps:,}", *map(number, row.distances)] for row in comparison.rows]
    rows.append(["Total training time", *map(format_duration, comparison.training_seconds)])
    page = render(
        "comparison.html.j2",
        comparison=comparison,
        distance=distance,
        counts=note,
        charts=distance_charts(curves, comparison.distance_name, distance),
        rows=rows,
        differences=[[d.path, *map(json.dumps, d.values)] for d in comparison.differences],
    )
    atomic_write(out / "comparison.html", page.encode())
    return out / "comparison.html"
