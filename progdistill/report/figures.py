"""Charts of a report: distance against sampling steps, and loss curves."""

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from xml.etree import ElementTree

from markupsafe import Markup

from progdistill.escape import one_line
from progdistill.report.input import ReportInput, StageEntry, distance_label, distance_name_of, steps_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MUTED: Final = "#5b6675"
PAPER: Final = "#ffffff"
DISTILLED: Final = "#0b6bcb"
DDIM: Final = "#c4501b"
ANCESTRAL: Final = "#6b7a2f"
PUBLISHED: Final = "#8a4fb5"

RUN_COLORS: Final = (DISTILLED, DDIM, ANCESTRAL, PUBLISHED, "#b8336a", "#0e8a8a")
"""One color per run in a comparison."""

PAGE_VALUES: Final = {
    "#1c2430": "var(--ink)",
    MUTED: "var(--muted)",
    "#e3e7ec": "var(--rule)",
    PAPER: "var(--paper)",
    DISTILLED: "var(--distilled)",
    DDIM: "var(--ddim)",
    ANCESTRAL: "var(--ancestral)",
    PUBLISHED: "var(--published)",
    "'DejaVu Sans'": "var(--sans)",
}
"""What colors and font become inside a page: variables that style.css sets for light, dark and print."""

WIDE: Final = (7.4, 4.7)
"""Size in inches of a chart on a desktop page."""
NARROW: Final = (4.3, 4.5)
"""Size in inches of the same chart on a phone, with type still readable."""

_SVG = "http://www.w3.org/2000/svg"


@contextmanager
def themed() -> Iterator[None]:
    """Draw in the style of report.mplstyle, in which `$` is a letter; the caller's settings of matplotlib stay."""
    import matplotlib

    with matplotlib.rc_context(fname=Path(__file__).with_name("report.mplstyle")):
        yield


def new_figure(width_inches: float, height_inches: float) -> "Figure":
    """Return an empty figure, independent of pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_inches, height_inches), layout="constrained")


@themed()
def to_png(figure: "Figure") -> bytes:
    """Render a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()


@themed()
def to_svg(figure: "Figure", description: str, name: str) -> Markup:
    """Render a figure as an SVG element that takes its colors and font from the page around it.

    Args:
        figure: A figure drawn in this module's theme.
        description: Alternative text for screen readers.
        name: Unique within the page; seeds the ids that the element's parts refer to each other by.
    """
    import matplotlib

    buffer = io.BytesIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    root = ElementTree.fromstring(buffer.getvalue())
    root.attrib |= {"role": "img", "aria-label": one_line(description)}
    for group in root.iter(f"{{{_SVG}}}g"):
        group.attrib.pop("id", None)  # `axes_1` and the like repeat in every figure; nothing refers to them
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    svg = ElementTree.tostring(root, encoding="unicode")
    for literal, value in PAGE_VALUES.items():
        svg = svg.replace(literal, value)
    return Markup(svg)


PUBLISHED_RESULTS: Final[dict[tuple[str, str | None], tuple[str, dict[int, float]]]] = {
    ("cifar10", "fid_legacy_tensorflow"): ("Salimans & Ho 2022, Table 2", {1: 9.12, 2: 4.51, 4: 3.00, 8: 2.57})
}
"""By dataset and distance: the source, and distances by sampling steps. The paper uses TensorFlow's FID."""


class Curve(NamedTuple):
    """A line of the chart: (sampling steps, distance) points with color, marker and line style.

    `deviations` are half the lengths of error bars, one a point; empty: none.
    """

    label: str
    points: tuple[tuple[int, float], ...]
    color: str
    marker: str
    line: str = "-"
    deviations: tuple[float, ...] = ()


def curves_of(run: ReportInput) -> list[Curve]:
    """Return a run's curves, and the paper's where it published one in the same distance."""

    def points(field: str) -> tuple[tuple[int, float], ...]:
        return _positive((stage.sampling_steps, getattr(stage, field)) for stage in run.checkpoints)

    curves = [
        Curve("Distilled", points("distance"), DISTILLED, "o"),
        Curve("Undistilled, DDIM", points("baseline_ddim"), DDIM, "s"),
        Curve("Undistilled, ancestral", points("baseline_ancestral"), ANCESTRAL, "^"),
        Curve("Distilled, ancestral", points("distilled_ancestral"), DISTILLED, "v", "--"),
    ]
    key = (run.dataset, distance_name_of(run))
    if key in PUBLISHED_RESULTS:
        source, distances = PUBLISHED_RESULTS[key]
        curves.append(Curve(f"Published: {source}", _positive(distances.items()), PUBLISHED, "D", ":"))
    return [curve for curve in curves if curve.points]


def _positive(pairs: Iterable[tuple[int, float | None]]) -> tuple[tuple[int, float], ...]:
    return tuple(sorted((steps, value) for steps, value in pairs if value is not None and value > 0))


@themed()
def draw_distance_chart(
    curves: Sequence[Curve],
    distance_name: str | None,
    title: str = "",
    note: str = "",
    size: tuple[float, float] = WIDE,
) -> "Figure":
    """Draw distances against sampling steps on logarithmic axes, the first curve on top; `size` is in inches."""
    from matplotlib.ticker import NullLocator

    figure = new_figure(*size)
    axes = figure.subplots()
    for order, curve in enumerate(curves):
        steps, distances = zip(*curve.points, strict=True)
        label = one_line(curve.label)
        (line,) = axes.plot(steps, distances, curve.line, color=curve.color, marker=curve.marker, label=label)
        line.set(linewidth=2.4 if order == 0 else 1.8, zorder=10 - order, clip_on=False)
        if any(curve.deviations):
            axes.errorbar(steps, distances, curve.deviations, fmt="none", ecolor=curve.color, elinewidth=1.2, capsize=3)
    if title:
        axes.set_title(one_line(title), pad=30 if note else None)
        axes.text(0, 1.03, note, transform=axes.transAxes, color=MUTED, va="bottom")
    axes.set_xlabel("Sampling steps")
    axes.set_ylabel(one_line(distance_label(distance_name)))
    axes.set_xscale("log", base=2)
    _log_scale(axes)
    ticks = sorted({steps for curve in curves for steps, _ in curve.points}) or [1]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y")
    axes.tick_params(length=0, pad=7)
    axes.margins(x=0.05, y=0.08)
    if curves:
        axes.legend(loc="best", fontsize=11, handlelength=2.4)
    else:
        axes.text(0.5, 0.5, "nothing was evaluated", ha="center", transform=axes.transAxes, color=MUTED)
    return figure


def distance_charts(curves: Sequence[Curve], distance_name: str | None, title: str) -> dict[str, Markup]:
    """Draw the chart as SVG for a desktop page and for a phone; style.css shows the one that fits.

    Screen readers get its title and all points.
    """
    points = "; ".join(f"{c.label}: " + ", ".join(f"{d:.3g} at {s}" for s, d in c.points) for c in curves)
    description = f"{title}. {points}"
    return {
        name: to_svg(draw_distance_chart(curves, distance_name, size=size), description, f"distance-{name}")
        for name, size in (("wide", WIDE), ("narrow", NARROW))
    }


def loss_charts(stages: Sequence[StageEntry]) -> list[Markup]:
    """Draw a chart as SVG for each stage with a loss curve, each on its own scale: targets differ."""
    charts = []
    for index, stage in enumerate(stage for stage in stages if stage.loss_curve):
        name = "base model" if stage.kind == "base" else steps_text(stage.sampling_steps)
        description = f"Training loss of the {name} against updates"
        charts.append(to_svg(_loss_panel(name, stage), description, f"loss-{index}"))
    return charts


@themed()
def _loss_panel(name: str, stage: StageEntry) -> "Figure":
    figure = new_figure(2.7, 1.9)
    axes = figure.subplots()
    updates = [point.update for point in stage.loss_curve]
    axes.plot(updates, [point.loss for point in stage.loss_curve], color=DISTILLED, linewidth=1.6)
    axes.set_title(name, fontsize=11, pad=6)
    axes.set_xlabel("updates", fontsize=9.5)
    _log_scale(axes, most_ticks=5)
    axes.grid(axis="y")
    axes.locator_params(axis="x", nbins=4)
    axes.tick_params(labelsize=9.5, length=0, pad=4)
    axes.margins(x=0.02)
    return figure


def _log_scale(axes: "Axes", most_ticks: int = 7) -> None:
    """Make the vertical axis logarithmic, with a few round ticks written without exponents."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_yscale("log")
    low, high = axes.dataLim.intervaly
    axes.yaxis.set_major_locator(FixedLocator(round_ticks(float(low), float(high), most_ticks)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value)))
    axes.yaxis.set_minor_locator(NullLocator())


def tick_text(value: float) -> str:
    """Three digits, such as 0.05 or 2e-5, and thousands whole, such as 2,250."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}".replace("e-0", "e-")


def round_ticks(low: float, high: float, most: int) -> list[float]:
    """Return at least two round ticks from about `low` to about `high`, as dense as `most` allows."""
    if not 0 < low <= high < math.inf:
        return [1.0]
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    quarters, halves, wholes = ([1 + step * n for n in range(round(9 / step))] for step in (0.25, 0.5, 1))
    for digits in (quarters, halves, wholes, [1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        ticks = [tick for tick in ticks if low / 1.1 <= tick <= high * 1.1]
        if 2 <= len(ticks) <= most:
            return ticks
    return [low, high]
