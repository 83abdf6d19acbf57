"""Colours and type of every figure: no matplotlib until a figure is drawn."""

import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
"""One colour a run, where several stand side by side."""

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
"""A figure that stands inside the page takes its colours from there, so that it follows light and dark."""

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
    """An inline SVG of a figure in the page's colours, width and font; `description` is its alt text.

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
    for colour, variable in CSS_VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg.replace("'DejaVu Sans'", "var(--sans)")
