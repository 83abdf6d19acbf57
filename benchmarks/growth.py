"""How the cost grows with image size, parameters, ranks and stages.

    python benchmarks/growth.py    # about ten minutes on two idle cores

Updates of a student of random images, with CPU time of one thread, for the network of the preset `emoji` with other
image sizes and channels. A run's seconds with more and more stages of one update. What `progdistill plan --measure`
says a default run's trainings take on one rank and on two. Writes benchmarks/results/growth.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from training_speed import Case, our_update, random_batch

from progdistill.config.presets import PRESETS
from progdistill.models.denoiser import build_denoiser
from progdistill.training.execution import Execution

SIZES, CHANNELS, BATCH = (8, 16, 32, 64), (16, 32, 64), 4
LADDERS = {1: "2:1", 3: "8:1", 6: "64:1", 10: "1024:1"}


def update(image_size: int, channels: int) -> dict[str, Any]:
    """CPU milliseconds of an update of a student."""
    preset = PRESETS["emoji"]
    network = preset.model.network.model_copy(update={"image_size": image_size, "base_channels": channels})
    preset = preset._replace(model=preset.model.model_copy(update={"network": network}))
    batch = random_batch(preset.model, BATCH, torch.device("cpu"))
    run, taken = our_update("distill", preset, Case("", Execution(channels_last=True)), batch), []
    for _ in range(6):
        began = time.process_time()
        run()
        taken.append(1000 * (time.process_time() - began))
    parameters = sum(parameter.numel() for parameter in build_denoiser(preset.model, seed=0).parameters())
    return {
        "image_size": image_size,
        "channels": channels,
        "parameters": parameters,
        "milliseconds_per_image": round(statistics.median(taken[1:]) / BATCH, 2),
    }


def command(*arguments: str) -> str:
    """What a command prints, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "progdistill.cli.main", *arguments]
        return subprocess.run(line, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def run_seconds(ladder: str) -> float:
    """Wall-clock seconds of a run whose trainings have one update and whose evaluations draw 100 samples."""
    small = ("--set", "base.updates=1", "--set", "distill.updates=1", "--set", "evaluation.samples=100")
    began = time.perf_counter()
    command("run", "--ladder", ladder, *small)
    return round(time.perf_counter() - began, 1)


def training_seconds(world_size: int) -> float:
    """What the trainings of a default run are expected to take, as measured on so many ranks."""
    plan = json.loads(command("plan", "--measure", "20", "--json", "--set", f"compute.world_size={world_size}"))
    return round(sum(time["seconds"] for time in plan["estimate"]["times"]), 1)


def main() -> None:
    """Measure all and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/growth.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": f"{os.cpu_count()} CPU cores, one thread",
        "versions": {"torch": version("torch")},
        "image_size": [update(size, 32) for size in SIZES],
        "channels": [update(32, channels) for channels in CHANNELS],
        "run_seconds_by_stages": {stages: run_seconds(ladder) for stages, ladder in LADDERS.items()},
        "training_seconds_by_ranks": {ranks: training_seconds(ranks) for ranks in (1, 2)},
    }
    args.out.write_text(json.dumps(facts, indent=2) + "\n")
    print(args.out.read_text())


if __name__ == "__main__":
    main()
