"""The report as components of a Metaflow card; the only module of this room that imports Metaflow."""

# metaflow.cards is neither fully typed nor explicit about what it exports.
# mypy: disable-error-code="attr-defined,no-untyped-call,arg-type"
from collections.abc import Sequence
from typing import Any

import numpy as np
from metaflow.cards import Image, Markdown, ProgressBar, Table, VegaChart

from progdistill.escape import markdown, one_line, printable
from progdistill.images import encode_png
from progdistill.progress import format_duration
from progdistill.report.figures import DISTILLED, curves_of, draw_distance_chart, to_png
from progdistill.report.input import LossPoint, ReportInput, counts_text, distance_name_of
from progdistill.report.page import render
from progdistill.report.samples import draw_samples
from progdistill.report.tables import cost_table, headline, quality_table


def report_components(run: ReportInput) -> list[Any]:
    """Return the components of a finished run: result, distances, samples, stages, lineage."""
    chart = draw_distance_chart(
        curves_of(run), distance_name_of(run), "Distance against sampling steps", counts_text(run)
    )
    parts = [
        Markdown(f"# Progressive distillation of {markdown(run.dataset)}\n\n{markdown(headline(run))}"),
        Image(to_png(chart), label="Distance against sampling steps"),
        Image(to_png(draw_samples(run)), label="Samples of every stage from the same noise"),
        Markdown("## Stages"),
        *(
            Table([list(map(_cell, row)) for row in table.rows], headers=list(table.header))
            for table in (quality_table(run.checkpoints), cost_table(run))
        ),
    ]
    if run.lineage:
        parts.append(Markdown(f"## Lineage\n\n```\n{printable(run.lineage)}\n```"))
    return parts


def _cell(text: str) -> str:
    """Text that is no markup, however the card takes it."""
    return one_line(text).translate({ord("<"): "‹", ord(">"): "›"})


def embedded_page(page: str, title: str) -> Markdown:
    """Return a self-contained page as a component, in a frame of its own in which its scripts run."""
    # Markdown would end the frame at an empty line.
    return Markdown(render("frame.html.j2", page=page, title=title).replace("\n", "&#10;"))


class LiveStage:
    """A stage in training: add `components` to the card once, then call `show` and refresh the card."""

    def __init__(self, label: str, updates: int) -> None:
        self._progress = ProgressBar(max=updates, label=f"Training the {label}", unit="updates")
        self._rate = Markdown("")
        self._loss = VegaChart(_loss_spec(()))
        blank = np.full((8, 8, 1), 255, np.uint8)
        self._samples = Image(encode_png(blank), label="No samples yet", disable_updates=False)
        self.components: list[Any] = [self._progress, self._rate, self._loss, self._samples]

    def show(
        self,
        update: int,
        losses: Sequence[LossPoint],
        *,
        images_per_second: float,
        remaining_seconds: float,
        samples: bytes | None = None,
    ) -> None:
        """Update the components after `update` parameter updates.

        `losses` is the whole loss curve so far, `samples` a PNG of current samples; None keeps the ones shown.
        """
        self._progress.update(update)
        last = f"loss {losses[-1].loss:.4g} · " if losses else ""
        eta = format_duration(remaining_seconds)
        self._rate.update(f"{last}{images_per_second:,.0f} images/s · ETA {eta}")
        self._loss.update(_loss_spec(losses))
        if samples is not None:
            self._samples.update(samples, label=f"Samples at update {update:,}")


def _loss_spec(losses: Sequence[LossPoint]) -> dict[str, Any]:
    """A Vega-Lite chart with its data inline; `$schema` is only an identifier, nothing is fetched."""
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": "container",
        "height": 180,
        "data": {"values": [point.model_dump() for point in losses]},
        "mark": {"type": "line", "color": DISTILLED},
        "encoding": {
            "x": {"field": "update", "type": "quantitative", "title": "Update"},
            "y": {"field": "loss", "type": "quantitative", "title": "Loss", "scale": {"type": "log"}},
        },
    }
