"""Every figure of docs/performance.md: updates and sampling against plain diffusers, and the cost of a stage.

    python benchmarks/performance.py [--rounds 15]    # about 10 minutes on two idle cores

Ours and the peer run in two processes, as two users would start them, and take turns; times are CPU seconds of one
thread, so that other load matters little, and ratios are medians over rounds of (peer / ours): above 1 ours is faster.
The peer is a short script over diffusers' `UNet2DModel` with the same architecture, weights' shapes, loss, optimizer
and average; it samples with diffusers' `DDIMScheduler`. A stage's overhead is what one more stage adds to a run whose
trainings have one update and whose evaluations draw 100 samples. Needs the `diffusers` extra. Writes
benchmarks/results/performance.json.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from training_speed import Batch, Case, our_update, plain_update, random_batch

from progdistill.config.presets import PRESETS, Preset
from progdistill.diffusion.loss import weighted_loss
from progdistill.diffusion.names import SamplerName
from progdistill.diffusion.schedule import diffuse
from progdistill.diffusion.target import distillation_target
from progdistill.evaluation.sampling import generate
from progdistill.models.config import TIME_SCALE
from progdistill.models.denoiser import build_denoiser
from progdistill.models.diffusers_format import diffusers_config
from progdistill.training.devices import keep_freed_memory
from progdistill.training.execution import Execution

STEPS = 8
"""Of the sampling."""

CPU = torch.device("cpu")


def preset_named(name: str) -> Preset:
    """A preset, or `8M`: the network of the emoji with twice the channels."""
    if name != "8M":
        return PRESETS[name]
    emoji = PRESETS["emoji"]
    network = emoji.model.network.model_copy(update={"base_channels": 64})
    return emoji._replace(model=emoji.model.model_copy(update={"network": network}))


CASES = {("digits", 64): 1, ("emoji", 16): 4, ("8M", 8): 5}
"""Network and batch size; measured in one of so many rounds."""

KINDS = ("base", "distill", "sample")


def ours(kind: str, preset: Preset, batch: Batch) -> Callable[[], None]:
    """An update or a sampling of this package."""
    if kind != "sample":
        return our_update(kind, preset, Case("", Execution(channels_last=True)), batch)
    model, size = build_denoiser(preset.model, seed=0).eval(), len(batch.images)

    def sample() -> None:
        for _ in generate(model, SamplerName.DDIM, STEPS, indices=range(size), seed=0, batch_size=size, clip=False):
            pass

    return sample


def peers(kind: str, preset: Preset, batch: Batch) -> Callable[[], None]:
    """The same in plain PyTorch over diffusers."""
    diffusers: Any = importlib.import_module("diffusers")
    if kind == "base":
        return plain_update(preset, batch)
    facts = diffusers_config(preset.model.network, preset.model.out_channels)
    teacher, x, labels = diffusers.UNet2DModel(**facts).eval(), batch.images, batch.labels
    if kind == "sample":
        scheduler = diffusers.DDIMScheduler(8192, prediction_type="v_prediction", clip_sample=False)
        scheduler.set_timesteps(STEPS)

        @torch.inference_mode()
        def sample() -> None:
            z = torch.randn(x.shape)
            for t in scheduler.timesteps:
                z = scheduler.step(teacher(z, t, class_labels=labels).sample, t, z).prev_sample

        return sample
    student = diffusers.UNet2DModel(**facts).train()
    settings, parameters = preset.distill, list(student.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, fused=True)

    def velocity(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return teacher(z, t * TIME_SCALE - 1, class_labels=labels).sample  # type: ignore[no-any-return]

    def update() -> None:
        t, noise = torch.randint(1, 65, (len(x),)) / 64, torch.randn_like(x)
        z = diffuse(x, noise, t)
        target = distillation_target(velocity, z, t, 64)
        output = student(z, t * TIME_SCALE - 1, class_labels=labels).sample
        loss = weighted_loss(output, target, z, t, preset.model.prediction, settings.loss_weight).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, settings.gradient_clip_norm)
        optimizer.step()

    return update


def serve(is_ours: bool, connection: Any) -> None:
    """Run what is asked for, once, and answer with its CPU seconds."""
    torch.set_num_threads(1)
    if is_ours:
        keep_freed_memory()
    made: dict[tuple[str, str], Callable[[], None]] = {}
    while (asked := connection.recv()) is not None:
        kind, name, size = asked
        if (kind, name) not in made:
            preset = preset_named(name)
            made[kind, name] = (ours if is_ours else peers)(kind, preset, random_batch(preset.model, size, CPU))
            made[kind, name]()
        began = time.process_time()
        made[kind, name]()
        connection.send(time.process_time() - began)


def measure(rounds: int) -> list[dict[str, Any]]:
    """Updates and sampling of every case."""
    spawn, ends = get_context("spawn"), []
    for is_ours in (True, False):
        here, there = spawn.Pipe()
        spawn.Process(target=serve, args=(is_ours, there), daemon=True).start()
        ends.append(here)
    found: list[dict[str, Any]] = []
    for (name, size), every in CASES.items():
        for kind in KINDS:
            pairs = []
            for _ in range(max(3, rounds // every)):
                for end in ends:
                    end.send((kind, name, size))
                    pairs.append(end.recv())
            times = list(zip(pairs[::2], pairs[1::2], strict=True))
            row = {
                "network": name,
                "batch": size,
                "what": kind,
                "ours_ms": round(1000 * statistics.median(first for first, _ in times), 2),
                "peer_ms": round(1000 * statistics.median(second for _, second in times), 2),
                "ratio": round(statistics.median(second / first for first, second in times), 3),
            }
            print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
            found.append(row)
    for end in ends:
        end.send(None)
    return found


def stage_seconds() -> float:
    """Wall-clock seconds that two more stages add to a run, halved."""
    taken = []
    for ladder in ("4:1", "16:1"):
        with tempfile.TemporaryDirectory() as folder:
            options = ["--set", "base.updates=1", "--set", "distill.updates=1", "--set", "evaluation.samples=100"]
            command = [sys.executable, "-m", "progdistill.cli.main", "run", "--ladder", ladder, *options]
            began = time.perf_counter()
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            taken.append(time.perf_counter() - began)
    return (taken[1] - taken[0]) / 2


def import_seconds() -> float:
    """The fastest of several imports of the command."""
    code = "import time; began = time.perf_counter(); import progdistill.cli.main; print(time.perf_counter() - began)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(5)]
    return min(map(float, runs))


def main() -> None:
    """Measure all and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/performance.json"))
    parser.add_argument("--no-runs", action="store_true", help="leave out what needs an idle machine: a stage's time")
    args = parser.parse_args()
    facts = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "device": f"{os.cpu_count()} CPU cores, one thread",
        "versions": {name: version(name) for name in ("torch", "diffusers")},
        "load_before": round(os.getloadavg()[0], 1),
        "updates_and_sampling": measure(args.rounds),
        "import_of_the_command_seconds": round(import_seconds(), 3),
        "seconds_of_a_stage": None if args.no_runs else round(stage_seconds(), 2),
    }
    args.out.write_text(json.dumps(facts, indent=2) + "\n")
    print(f"stage {facts['seconds_of_a_stage']} s, import {facts['import_of_the_command_seconds']} s")


if __name__ == "__main__":
    main()
