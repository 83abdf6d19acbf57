"""The report as a Metaflow card, finished and live."""

# mypy: disable-error-code="attr-defined"
import base64
import json

import numpy as np
from metaflow.cards import Image, Markdown, ProgressBar, Table, VegaChart

from progdistill.images import encode_png
from progdistill.report.card import LiveStage, report_components
from progdistill.report.input import LossPoint
from tests.report.runs import STEPS, example_run


def test_a_finished_run_has_result_pictures_and_stages() -> None:
    parts = report_components(example_run())
    assert [type(part) for part in parts] == [Markdown, Image, Image, Markdown, Table, Table, Markdown]
    assert len(parts[4].render()["data"]) == len(STEPS)
    assert parts[1].render()["src"].startswith("data:image/png;base64,")


def test_a_stage_shows_where_it_is() -> None:
    live = LiveStage("student of 4 steps", updates=200)
    png = encode_png(np.zeros((8, 8, 1), np.uint8))
    losses = [LossPoint(update=u, loss=1 / (u + 1)) for u in range(3)]
    live.show(50, losses, images_per_second=640.0, remaining_seconds=90, samples=png)
    progress, rate, chart, samples = live.components
    assert isinstance(progress, ProgressBar) and progress.render()["value"] == 50
    assert rate.render()["source"].strip() == "loss 0.3333 · 640 images/s · ETA 1m30s"
    assert isinstance(chart, VegaChart)
    assert len(json.dumps(chart.render())) > 200
    assert samples.render()["label"] == "Samples at update 50"
    kind, _, shown = samples.render()["src"].partition(",")
    assert (kind, base64.b64decode(shown)) == ("data:image/png;base64", png)
