"""The report of a sweep: its settings beside one another, each as mean and standard deviation over its seeds."""

import json
from collections.abc import Sequence
from datetime import datetime
from itertools import cycle
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal, NamedTuple

from pydantic import JsonValue

from progdistill.models_base import Frozen
from progdistill.report.figures import MUTED, RUN_COLORS, Curve, distance_charts, draw_distance_chart, to_png
from progdistill.report.input import StageEntry, distance_label, number, steps_text
from progdistill.report.page import render
from progdistill.store.files import atomic_write

SHOWN = len(RUN_COLORS)
"""Settings drawn in the picture, the best first; the table has all."""


def setting_text(setting: dict[str, JsonValue]) -> str:
    """A setting in words; `as given` where a sweep varies nothing but the seed."""
    parts = (f"{path}={value if isinstance(value, str) else json.dumps(value)}" for path, value in setting.items())
    return ", ".join(parts) or "as given"


class SweepRun(Frozen):
    """One run of a sweep."""

    name: str
    """`Flow/run id`, by which its checkpoints are found."""
    setting: dict[str, JsonValue]
    seed: int
    checkpoints: tuple[StageEntry, ...]
    """As in the report of a run, without pictures; empty where the run diverged."""
    diverged: str | None = None


class Spread(NamedTuple):
    """Mean and standard deviation (of a sample, n − 1; None for a single value) over the seeds."""

    mean: float
    deviation: float | None

    def __str__(self) -> str:
        return number(self.mean) if self.deviation is None else f"{number(self.mean)} ± {number(self.deviation)}"


class SettingResult(NamedTuple):
    """One setting over its seeds."""

    setting: dict[str, JsonValue]
    members: tuple[int, ...]
    """Places of its runs in the report."""
    distances: dict[int, Spread]
    """By sampling steps; empty where a run diverged."""
    diverged: int
    """Runs that diverged."""


class SweepReport(Frozen):
    """A sweep as its report shows it."""

    schema_version: Literal[1] = 1
    run_id: str
    flow: str
    created_at: datetime
    dataset: str
    code_version: str
    store: str
    sampling_steps: tuple[int, ...]
    """At which all runs are measured, the most first; the last one decides which setting is best."""
    configuration: dict[str, JsonValue]
    """Of the first run."""
    runs: tuple[SweepRun, ...]

    @property
    def distance_name(self) -> str | None:
        """The distance that all runs are measured in; None where all diverged."""
        stages = (stage for run in self.runs for stage in run.checkpoints)
        return next((stage.distance_name for stage in stages if stage.distance_name), None)

    @property
    def settings(self) -> list[SettingResult]:
        """The settings, from the least mean distance at the fewest steps; those that diverged come last."""
        places: dict[str, list[int]] = {}
        for place, run in enumerate(self.runs):
            places.setdefault(setting_text(run.setting), []).append(place)
        found = [self._result(tuple(members)) for members in places.values()]
        fewest = self.sampling_steps[-1]
        return sorted(found, key=lambda r: r.distances[fewest].mean if r.distances else float("inf"))

    @property
    def best(self) -> SettingResult | None:
        """The setting with the least mean distance at the fewest steps; None where some run of each diverged."""
        first = self.settings[0]
        return first if first.distances else None

    def _result(self, members: tuple[int, ...]) -> SettingResult:
        runs = [self.runs[place] for place in members]
        diverged = sum(run.diverged is not None for run in runs)
        steps = () if diverged else self.sampling_steps
        distances = {n: spread_at(runs, n, "distance") for n in steps}
        return SettingResult(runs[0].setting, members, distances, diverged)


def spread_at(runs: Sequence[SweepRun], sampling_steps: int, field: str) -> Spread:
    """A figure of the stages at a number of sampling steps, over runs that all have it."""
    values = [
        float(getattr(stage, field))
        for run in runs
        for stage in run.checkpoints
        if stage.sampling_steps == sampling_steps
    ]
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None)


def headline(report: SweepReport) -> str:
    """The result in a sentence."""
    best, fewest = report.best, report.sampling_steps[-1]
    if best is None:
        return "Some run of every setting diverged: none is the best."
    seeds = len(best.members)
    over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    return (
        f"Best with {steps_text(fewest)}: {setting_text(best.setting)}, at a distance of {best.distances[fewest]}"
        f" ({over}; {distance_label(report.distance_name)}, lower is better)."
    )


def build_sweep(report: SweepReport, out: Path) -> Path:
    """Write sweep.html, sweep.json and sweep.png into `out`; return the path of the page."""
    out.mkdir(parents=True, exist_ok=True)
    settings, distance = report.settings, distance_label(report.distance_name)
    curves = _curves(report, settings)
    title = f"Distance against sampling steps, {report.dataset}"
    atomic_write(out / "sweep.png", to_png(draw_distance_chart(curves, report.distance_name, title)))
    atomic_write(out / "sweep.json", (report.model_dump_json(indent=2) + "\n").encode())
    page = render(
        "sweep.html.j2",
        report=report,
        headline=headline(report),
        distance=distance,
        charts=distance_charts(curves, report.distance_name, distance),
        shown=min(SHOWN, len(settings)),
        settings=[[setting_text(result.setting), *_cells(report, result)] for result in settings],
        runs=[[run.name, setting_text(run.setting), str(run.seed), *_distances(report, run)] for run in report.runs],
    )
    atomic_write(out / "sweep.html", page.encode())
    return out / "sweep.html"


def _cells(report: SweepReport, result: SettingResult) -> list[str]:
    if result.diverged:
        return [f"{result.diverged} of {len(result.members)} diverged", *[""] * (len(report.sampling_steps) - 1)]
    return [str(result.distances[steps]) for steps in report.sampling_steps]


def _distances(report: SweepReport, run: SweepRun) -> list[str]:
    if run.diverged is not None:
        return ["diverged", *[""] * (len(report.sampling_steps) - 1)]
    found = {stage.sampling_steps: stage.distance for stage in run.checkpoints}
    return [number(found[steps]) for steps in report.sampling_steps]


def _curves(report: SweepReport, settings: Sequence[SettingResult]) -> list[Curve]:
    """The mean of each of the best settings, and the undistilled model of the best with DDIM."""
    curves = [
        Curve(
            setting_text(result.setting),
            tuple((steps, spread.mean) for steps, spread in sorted(result.distances.items())),
            color,
            marker,
            deviations=tuple(spread.deviation or 0.0 for _, spread in sorted(result.distances.items())),
        )
        for result, color, marker in zip(settings, RUN_COLORS, cycle("os^Dv"), strict=False)
        if result.distances
    ]
    best = report.best
    if best is not None:
        runs = [report.runs[place] for place in best.members]
        points = tuple((n, spread_at(runs, n, "baseline_ddim").mean) for n in sorted(report.sampling_steps))
        curves.append(Curve("Undistilled, DDIM (of the best)", points, MUTED, ".", ":"))
    return curves
