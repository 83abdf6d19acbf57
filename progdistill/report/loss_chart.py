"""Training loss against updates, one small panel a stage. No torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from progdistill.report import theme
from progdistill.report.headline import steps_text
from progdistill.report.input import StageEntry

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def loss_panels(stages: Sequence[StageEntry]) -> list[tuple[str, "Figure"]]:
    """A name and a panel for each stage with a loss curve, each on its own scale: targets differ."""
    return [(_name(stage), _panel(stage)) for stage in stages if stage.loss_curve]


def _name(stage: StageEntry) -> str:
    return "base model" if stage.kind == "base" else steps_text(stage.num_steps)


def _panel(stage: StageEntry) -> "Figure":
    figure = theme.new_figure(2.7, 1.9)
    axes = figure.subplots()
    updates = [point.update for point in stage.loss_curve]
    axes.plot(updates, [point.loss for point in stage.loss_curve], color=theme.DISTILLED, linewidth=1.6)
    axes.set_title(_name(stage), fontsize=11, pad=6)
    axes.set_xlabel("updates", fontsize=9.5)
    theme.log_scale(axes, most_ticks=5)
    axes.grid(axis="y")
    axes.locator_params(axis="x", nbins=4)
    axes.tick_params(labelsize=9.5, length=0, pad=4)
    axes.margins(x=0.02)
    return figure
