"""A training step of a wrapped diffusers network against the bare network's forward and backward passes.

    python benchmarks/wrapped_speed.py [--out benchmarks/results]

A step distills: the teacher is asked twice, the student once, with its gradient. The bare passes are the same calls of
the same networks, without anything of ours. Each round times both, one after the other, so that other load affects
both; the ratio is the median over rounds. `whole update` adds clipping, AdamW and the moving average to our side alone.
Needs the `diffusers` extra.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from progdistill.diffusion.names import LossWeight, PredictionType
from progdistill.diffusion.noise_schedules import DiscreteSchedule
from progdistill.models.adapters import share_base
from progdistill.models.config import DenoiserConfig, LoraConfig
from progdistill.models.denoiser import Denoiser, build_denoiser, student_of
from progdistill.models.networks.unet_condition import UNetCondition
from progdistill.training.config import TrainingSettings
from progdistill.training.gradients import gradient_norm
from progdistill.training.objective import DistillationObjective
from progdistill.training.optimizer import step
from progdistill.training.random import BatchRandom
from progdistill.training.state import TrainingState

GOAL = 1.03
"""Most that a step may take, in bare passes."""

SIZE, TOKENS, WIDTH = 32, 77, 256

NETWORK = {
    "sample_size": SIZE,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [32, 64, 128],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 8,
}
"""A UNet2DConditionModel of Stable Diffusion's kind, a tenth as wide."""


class Step(NamedTuple):
    """What is timed: a step of ours, the whole update, and the bare passes."""

    objective: Callable[[], Any]
    update: Callable[[], Any]
    bare: Callable[[], Any]


def step_of(lora: bool, device: str, batch: int) -> Step:
    """Distillation of the network with all weights, or of an adapter on it."""
    config = DenoiserConfig(
        network=UNetCondition.describe(NETWORK, SIZE, TOKENS),
        prediction=PredictionType.V,
        foreign_schedule=DiscreteSchedule(kind="scaled_linear", beta_start=0.00085, beta_end=0.012),
    )
    teacher = build_denoiser(config, seed=0).requires_grad_(False)
    if lora:
        adapter = config.model_copy(update={"lora": LoraConfig(base="b" * 64, rank=16, alpha=16.0)})
        teacher, student = share_base(teacher, config, adapter, None, seed=0)
    else:
        student = student_of(teacher, config)
    teacher.to(device)
    student.to(device).train()
    settings = TrainingSettings(
        updates=1000, batch_size=batch, learning_rate=1e-5, ema_decay=0.99, loss_weight=LossWeight.TRUNCATED_SNR
    )
    state = TrainingState(student, settings)
    objective = DistillationObjective(teacher, 4, settings.loss_weight)
    x = torch.randn(batch, 4, SIZE, SIZE, device=device)
    columns = {"prompt_embeds": torch.randn(batch, TOKENS, WIDTH, device=device)}

    def passes() -> None:
        state.optimizer.zero_grad(set_to_none=True)
        random = BatchRandom(torch.Generator(device).manual_seed(0), batch)
        objective(student, student, x, columns, random).backward()  # type: ignore[no-untyped-call]

    def update() -> None:
        passes()
        norm = gradient_norm(state.parameters)
        step(state.optimizer, state.parameters, norm, 1.0, norm.isfinite())
        torch._foreach_lerp_(state.average, [p.detach() for p in state.parameters], 0.01)

    return Step(passes, update, bare_passes(teacher, student, state, x, columns["prompt_embeds"]))


def bare_passes(teacher: Denoiser, student: Denoiser, state: TrainingState, x: Tensor, prompt: Tensor) -> Any:
    """Two forward passes without gradients, one forward and backward pass with."""
    t = torch.full((len(x),), 500.0, device=x.device)

    def bare() -> None:
        state.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for _ in range(2):
                teacher.network(x, t, encoder_hidden_states=prompt, return_dict=False)
        output = student.network(x, t, encoder_hidden_states=prompt, return_dict=False)[0]
        output.square().mean().backward()

    return bare


def seconds(step: Callable[[], Any], device: str) -> float:
    """Wall-clock seconds of one step, with the device synchronized before and after."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - began


def rows(args: argparse.Namespace) -> Iterator[str]:
    """A line for all weights, and one for an adapter."""
    for name, lora in (("all weights", False), ("LoRA, rank 16", True)):
        measured = step_of(lora, args.device, args.batch)
        kinds = (measured.bare, measured.objective, measured.update)
        rounds = [[seconds(kind, args.device) for kind in kinds] for _ in range(args.repeats + 2)][2:]
        bare, objective, update = (1000 * statistics.median(times) for times in zip(*rounds, strict=True))
        ratios = [statistics.median(times[i] / times[0] for times in rounds) for i in (1, 2)]
        yield f"{name:16}{bare:>10.1f}{objective:>10.1f}{ratios[0]:>8.3f}{GOAL:>7}{update:>18.1f}{ratios[1]:>8.3f}"


def main() -> None:
    """Print the table, and write it to `wrapped_speed.txt`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--out", type=Path, help="where to write wrapped_speed.txt")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lines = [
        f"torch {torch.__version__}, {args.device}, {args.threads} thread(s), batch {args.batch}, median of"
        f" {args.repeats} rounds; load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
        f"{'student':16}{'bare ms':>10}{'step ms':>10}{'ratio':>8}{'goal':>7}{'whole update ms':>18}{'ratio':>8}",
        *rows(args),
    ]
    print("\n".join(lines))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "wrapped_speed.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
