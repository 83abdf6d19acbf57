"""Charts of a report: distance against sampling steps, and loss curves."""

import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from progdistill.report.input import (
    ReportInput,
    StageEntry,
    distance_label,
    distance_name_of,
    steps_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


INK: Final = "#1c2430"
MUTED: Final = "#5b6675"
GRID: Final = "#e3e7ec"
PAPER: Final = "#ffffff"
DISTILLED: Final = "#0b6bcb"
DDIM: Final = "#c4501b"
ANCESTRAL: Final = "#6b7a2f"
PUBLISHED: Final = "#8a4fb5"

RUNS: Final = (DISTILLED, DDIM, ANCESTRAL, PUBLISHED, "#b8336a", "#0e8a8a")
"""One color a run, where several stand side by side."""

CSS_VARIABLES: Final = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--rule",
    PAPER: "--paper",
    DISTILLED: "--distilled",
    DDIM: "--ddim",
    ANCESTRAL: "--ancestral",
    PUBLISHED: "--published",
}
"""A figure that stands inside the page takes its colors from there, so that it follows light and dark."""

DOTS_PER_INCH: Final = 160

_RC: Final[Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 14,
    "axes.titleweight": "bold",
    "axes.titlepad": 14,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": True,
    "legend.facecolor": PAPER,
    "legend.edgecolor": "none",
    "legend.framealpha": 1.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "progdistill",
}


def new_figure(width_inches: float, height_inches: float) -> "Figure":
    """An empty figure in this theme, on the Agg canvas and apart from pyplot's global state."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(_RC)
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def log_scale(axes: "Axes", most_ticks: int = 7) -> None:
    """Make the vertical axis logarithmic, with a few round ticks over what is drawn, in plain figures."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_yscale("log")
    low, high = axes.dataLim.intervaly
    axes.yaxis.set_major_locator(FixedLocator(round_ticks(float(low), float(high), most_ticks)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.3g}".replace("e-0", "e-")))
    axes.yaxis.set_minor_locator(NullLocator())


def round_ticks(low: float, high: float, most: int) -> list[float]:
    """Round figures up to a little beyond both ends: two at least, as finely as `most` allows."""
    if not 0 < low <= high < math.inf:
        return [1.0]
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for digits in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        ticks = [tick for tick in ticks if low / 1.1 <= tick <= high * 1.1]
        if 2 <= len(ticks) <= most:
            return ticks
    return [low, high]


def png(figure: "Figure") -> bytes:
    """A figure as PNG."""
    import io

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()


def page_svg(figure: "Figure", description: str) -> str:
    """An inline SVG of a figure in the page's colors, width and font; `description` is its alt text.

    Its ids are its own, so that several stand in one page.
    """
    import hashlib
    import html
    import io
    import re

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[0-9.]+pt"', "", svg, count=2)
    mark = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{mark}-", svg)
    label = html.escape(description, quote=True)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    for color, variable in CSS_VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return svg.replace("'DejaVu Sans'", "var(--sans)")


class PublishedResult(NamedTuple):
    """Distances by number of sampling steps, under the name of the distance and with their source."""

    distance_name: str
    source: str
    distances: dict[int, float]


PUBLISHED_RESULTS = {
    "cifar10": PublishedResult(
        "fid_legacy_tensorflow", "Salimans & Ho 2022, Table 2", {1: 9.12, 2: 4.51, 4: 3.00, 8: 2.57}
    ),
}
"""By dataset name. The paper's FID is TensorFlow's: figures of clean-fid's other mode do not compare."""


def published_for(dataset: str, distance_name: str | None) -> PublishedResult | None:
    """What the paper reports for a dataset in this very distance, None where nothing compares."""
    result = PUBLISHED_RESULTS.get(dataset)
    return result if result is not None and result.distance_name == distance_name else None


WIDE = (7.4, 4.7)
"""Inches of a chart across a page."""
NARROW = (4.3, 4.5)
"""Inches of the same chart on a phone, where type must stay readable."""


class Curve(NamedTuple):
    """A line of the chart: (sampling steps, distance), and how it is drawn."""

    label: str
    points: tuple[tuple[int, float], ...]
    color: str
    marker: str
    dash: str = "-"


def curves_of(run: ReportInput) -> list[Curve]:
    """The curves of a run, and the paper's published one where there is one in the same distance."""
    stages = run.checkpoints
    curves = [
        Curve("Distilled", _points((s.sampling_steps, s.distance) for s in stages), DISTILLED, "o"),
        Curve("Undistilled, DDIM", _points((s.sampling_steps, s.baseline_ddim) for s in stages), DDIM, "s"),
        Curve(
            "Undistilled, ancestral",
            _points((s.sampling_steps, s.baseline_ancestral) for s in stages),
            ANCESTRAL,
            "^",
        ),
        Curve(
            "Distilled, ancestral",
            _points((s.sampling_steps, s.distilled_ancestral) for s in stages),
            DISTILLED,
            "v",
            "--",
        ),
    ]
    published = published_for(run.dataset, distance_name_of(run))
    if published is not None:
        points = tuple(sorted(published.distances.items()))
        curves.append(Curve(f"Published: {published.source}", points, PUBLISHED, "D", ":"))
    return [curve for curve in curves if curve.points]


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
    figure = new_figure(*size)
    axes = figure.subplots()
    for order, curve in enumerate(curves):
        steps, distances = zip(*curve.points, strict=True)
        axes.plot(
            steps,
            distances,
            curve.dash,
            color=curve.color,
            marker=curve.marker,
            markersize=6.5,
            markeredgecolor=PAPER,
            markeredgewidth=1.0,
            linewidth=2.4 if order == 0 else 1.8,
            label=curve.label,
            zorder=10 - order,
            clip_on=False,
        )
    if title:
        axes.set_title(title, pad=30 if note else None)
        axes.text(0, 1.03, note, transform=axes.transAxes, color=MUTED, va="bottom")
    axes.set_xlabel("Sampling steps")
    axes.set_ylabel(distance_label(distance_name))
    _log_axes(axes, [steps for curve in curves for steps, _ in curve.points])
    if curves:
        axes.legend(loc="upper right", fontsize=11, handlelength=2.4)
    else:
        axes.text(0.5, 0.5, "nothing was evaluated", ha="center", transform=axes.transAxes, color=MUTED)
    return figure


def _log_axes(axes: "Axes", steps: Sequence[int]) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log", base=2)
    log_scale(axes)
    ticks = sorted(set(steps)) or [1]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y")
    axes.tick_params(length=0, pad=7)
    axes.margins(x=0.05, y=0.08)


def _points(pairs: Iterable[tuple[int, float | None]]) -> tuple[tuple[int, float], ...]:
    return tuple(sorted((steps, value) for steps, value in pairs if value is not None and value > 0))


def loss_panels(stages: Sequence[StageEntry]) -> list[tuple[str, "Figure"]]:
    """A name and a panel for each stage with a loss curve, each on its own scale: targets differ."""
    return [(_name(stage), _panel(stage)) for stage in stages if stage.loss_curve]


def _name(stage: StageEntry) -> str:
    return "base model" if stage.kind == "base" else steps_text(stage.sampling_steps)


def _panel(stage: StageEntry) -> "Figure":
    figure = new_figure(2.7, 1.9)
    axes = figure.subplots()
    updates = [point.update for point in stage.loss_curve]
    axes.plot(updates, [point.loss for point in stage.loss_curve], color=DISTILLED, linewidth=1.6)
    axes.set_title(_name(stage), fontsize=11, pad=6)
    axes.set_xlabel("updates", fontsize=9.5)
    log_scale(axes, most_ticks=5)
    axes.grid(axis="y")
    axes.locator_params(axis="x", nbins=4)
    axes.tick_params(labelsize=9.5, length=0, pad=4)
    axes.margins(x=0.02)
    return figure
