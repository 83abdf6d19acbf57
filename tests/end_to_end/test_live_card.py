"""The card of a stage while it trains."""

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.running import command, environment


@pytest.mark.slow
def test_the_card_of_a_long_training_shows_loss_and_samples_while_it_goes_on(tmp_path: Path) -> None:
    """The card is there by default, because so many updates take long."""
    arguments = ("--base-updates", "100000", "--set", "live.interval_seconds=1")
    started = subprocess.Popen(
        command("run", *arguments, "--set", "live.samples_interval_seconds=0"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert started.stdout is not None
    try:
        lines = []
        for line in started.stdout:  # one every few seconds, as long as it trains
            lines.append(line)
            shown = _shown(tmp_path)
            if "data:image/png" in shown and "images/s" in shown:
                break
        assert started.poll() is None, "".join(lines)[-2000:]
    finally:
        os.killpg(started.pid, signal.SIGINT)
        started.communicate(timeout=250)
    progress, rate, chart, samples = _components(shown)
    assert 0 < progress["value"] < 100_000
    assert "loss" in rate["source"] and "ETA" in rate["source"]
    assert all(point["loss"] > 0 for point in chart["spec"]["data"]["values"])
    assert samples["label"].startswith("Samples at update")
    events = [json.loads(line) for line in next(tmp_path.glob("runs/*/events.jsonl")).open()]
    assert events[0]["state"] == "started" and events[-1]["state"] == "failed"
    assert events[1]["kind"] == "training"


def _shown(folder: Path) -> str:
    """The data that a browser with the card open asks for again and again; none while it is being written."""
    found = list(folder.glob(".metaflow/mf.cards/**/train_base/**/*live*.data.json"))
    with suppress(IndexError, ValueError):
        json.loads(shown := found[0].read_text())
        return shown
    return ""


def _components(shown: str) -> list[dict[str, Any]]:
    data = json.loads(shown)
    return list(data["data"].values())
