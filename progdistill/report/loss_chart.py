"""Training loss against updates, one small panel a stage. No torch."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from progdistill.report import theme
from progdistill.report.input import StageEntry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS_A_ROW = 4


def draw_losses(stages: Sequence[StageEntry]) -> "Figure | None":
    """A panel for each stage with a loss curve, each on its own scale: a student's target is its teacher."""
    shown = [stage for stage in stages if stage.loss_curve]
    if not shown:
        return None
    columns = min(PANELS_A_ROW, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = theme.new_figure(2.3 * columns + 0.4, 1.75 * rows + 0.3)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, stage in zip(panels, shown, strict=False):
        updates = [point.update for point in stage.loss_curve]
        axes.plot(updates, [point.loss for point in stage.loss_curve], color=theme.DISTILLED, linewidth=1.6)
        name = "base" if stage.kind == "base" else f"{stage.num_steps:,} steps"
        axes.set_title(name, fontsize=10, pad=4)
        theme.log_scale(axes)
        axes.tick_params(labelsize=8, length=2)
        axes.margins(x=0.02)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    return figure
