"""Distance against sampling steps on log axes: the paper's Figure 4. No torch."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from progdistill.report import theme
from progdistill.report.input import ReportInput
from progdistill.report.published import published_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


WIDE = (7.4, 4.7)
"""Inches of a chart across a page."""
NARROW = (4.3, 4.5)
"""Inches of the same chart on a phone, where type must stay readable."""


class Curve(NamedTuple):
    """A line of the chart: (sampling steps, distance), and how it is drawn."""

    label: str
    points: tuple[tuple[int, float], ...]
    colour: str
    marker: str
    dash: str = "-"


def distance_label(distance_name: str | None) -> str:
    """The true name of a distance as an axis is labelled: `frechet_digits_classifier` is no FID."""
    name = distance_name or "distance"
    if name.startswith("frechet_"):
        return f"Fréchet distance ({name.removeprefix('frechet_').replace('_', ' ')} features)"
    if name.startswith("fid_"):
        return f"FID ({name.removeprefix('fid_').replace('_', ' ')})"
    return name.replace("_", " ")


def curves_of(run: ReportInput) -> list[Curve]:
    """The curves of a run, and the paper's published one where there is one in the same distance."""
    stages = run.checkpoints
    curves = [
        Curve("Distilled", _points((s.num_steps, s.distance) for s in stages), theme.DISTILLED, "o"),
        Curve("Undistilled, DDIM", _points((s.num_steps, s.baseline_ddim) for s in stages), theme.DDIM, "s"),
        Curve(
            "Undistilled, ancestral",
            _points((s.num_steps, s.baseline_ancestral) for s in stages),
            theme.ANCESTRAL,
            "^",
        ),
        Curve(
            "Distilled, ancestral",
            _points((s.num_steps, s.distilled_ancestral) for s in stages),
            theme.DISTILLED,
            "v",
            "--",
        ),
    ]
    published = published_for(run.dataset, distance_name_of(run))
    if published is not None:
        points = tuple(sorted(published.distances.items()))
        curves.append(Curve(f"Published: {published.source}", points, theme.PUBLISHED, "D", ":"))
    return [curve for curve in curves if curve.points]


def distance_name_of(run: ReportInput) -> str | None:
    """The name of the distance that the run's checkpoints were measured in."""
    return next((stage.distance_name for stage in run.checkpoints if stage.distance_name), None)


def counts_text(run: ReportInput) -> str:
    """How many samples stand behind each of the run's distances, and how they are guided; else empty.

    Such as `1,000 samples`, or `1,000 samples guided with w = 2`.
    """
    counts = sorted({stage.evaluated_samples for stage in run.checkpoints if stage.evaluated_samples})
    weights = sorted({stage.guidance for stage in run.checkpoints if stage.guidance})
    guided = f" guided with w = {' or '.join(f'{weight:g}' for weight in weights)}" if weights else ""
    return " or ".join(f"{count:,}" for count in counts) + f" samples{guided}" if counts else ""


def draw_distance_chart(
    curves: Sequence[Curve],
    distance_name: str | None,
    title: str = "",
    note: str = "",
    size: tuple[float, float] = WIDE,
) -> "Figure":
    """Draw curves over log₂ of the steps; the lower, the nearer to the real images.

    `note` goes below the title. `size` is the figure's width and height in inches.
    """
    figure = theme.new_figure(*size)
    axes = figure.subplots()
    for order, curve in enumerate(curves):
        steps, distances = zip(*curve.points, strict=True)
        axes.plot(
            steps,
            distances,
            curve.dash,
            color=curve.colour,
            marker=curve.marker,
            markersize=6.5,
            markeredgecolor=theme.PAPER,
            markeredgewidth=1.0,
            linewidth=2.4 if order == 0 else 1.8,
            label=curve.label,
            zorder=10 - order,
            clip_on=False,
        )
    if title:
        axes.set_title(title, pad=30 if note else None)
        axes.text(0, 1.03, note, transform=axes.transAxes, color=theme.MUTED, va="bottom")
    axes.set_xlabel("Sampling steps")
    axes.set_ylabel(distance_label(distance_name))
    _log_axes(axes, [steps for curve in curves for steps, _ in curve.points])
    if curves:
        axes.legend(loc="upper right", fontsize=11, handlelength=2.4)
    else:
        axes.text(0.5, 0.5, "nothing was evaluated", ha="center", transform=axes.transAxes, color=theme.MUTED)
    return figure


def _log_axes(axes: "Axes", steps: Sequence[int]) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log", base=2)
    theme.log_scale(axes)
    ticks = sorted(set(steps)) or [1]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y")
    axes.tick_params(length=0, pad=7)
    axes.margins(x=0.05, y=0.08)


def _points(pairs: Iterable[tuple[int, float | None]]) -> tuple[tuple[int, float], ...]:
    return tuple(sorted((steps, value) for steps, value in pairs if value is not None and value > 0))
