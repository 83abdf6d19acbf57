"""Images per second of training and distillation, in every execution mode, against plain PyTorch.

    python benchmarks/training_speed.py [--preset imagenet64] [--batch 64] [--micro-batch 32] [--device cuda]
        [--updates 10] [--threads 1]

Every row is a whole update: random numbers, forward, backward, clipping, AdamW and, for the base model, the
moving average. `plain` is a simple loop over diffusers' `UNet2DModel` with the same architecture, loss,
optimizer and average, in float32. It alternates with each case, so that other load affects both; the ratio is
the median over rounds of (time of plain / time of the case): above 1 the case is faster. Data are random
images on the device, so nothing is loaded. Needs the `diffusers` extra.
"""

import argparse
import importlib
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from progdistill.config.presets import PRESETS, Preset
from progdistill.diffusion.loss import weighted_loss
from progdistill.diffusion.prediction import velocity_from_x_eps
from progdistill.diffusion.schedule import diffuse
from progdistill.models.config import TIME_SCALE, DenoiserConfig
from progdistill.models.denoiser import Denoiser, build_denoiser, student_of
from progdistill.models.diffusers_format import diffusers_config
from progdistill.training.config import Precision, TrainingSettings
from progdistill.training.execution import Execution, check_precision, place, set_float32_products
from progdistill.training.gradients import accumulate, gradient_norm
from progdistill.training.loop import ema_decay_at
from progdistill.training.objective import BaseObjective, DistillationObjective, Objective
from progdistill.training.optimizer import step
from progdistill.training.random import BatchRandom
from progdistill.training.state import TrainingState

Update = Callable[[], None]
WARM_UP = 3


class Case(NamedTuple):
    """An execution mode of the network."""

    name: str
    execution: Execution


class Batch(NamedTuple):
    """The batch that every update trains on."""

    images: Tensor
    labels: Tensor | None


def main() -> None:
    """Print a line per case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="digits", choices=sorted(PRESETS))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device, preset = torch.device(args.device), PRESETS[args.preset]
    print(
        f"torch {torch.__version__}, {args.preset}, batch {args.batch}, {name_of(device)}, {args.threads}"
        f" thread(s), median of {args.updates} updates; load before: {os.getloadavg()[0]:.1f}"
    )
    print(f"{'':44}{'images/s':>10}{'ratio':>8}{'GB':>7}")
    batch = random_batch(preset.model, args.batch, device)
    plain = plain_update(preset, batch)
    rates = [args.batch / seconds(plain, device) for _ in range(WARM_UP + args.updates)][WARM_UP:]
    print_row("base, plain loop over diffusers, float32", statistics.median(rates), 1.0, device)
    for case in cases(device, args.batch, args.micro_batch):
        for kind in ("base", "distill"):
            update = our_update(kind, preset, case, batch)
            found = [(seconds(update, device), seconds(plain, device)) for _ in range(WARM_UP + args.updates)]
            ours = args.batch / statistics.median(first for first, _ in found[WARM_UP:])
            ratio = statistics.median(second / first for first, second in found[WARM_UP:])
            print_row(f"{kind}, {case.name}", ours, ratio, device)


def cases(device: torch.device, batch: int, micro_batch: int | None) -> list[Case]:
    """float32 first; modes that do not help a CPU are omitted there."""
    size = micro_batch or max(1, batch // 4)
    found = [
        Case("float32", Execution()),
        Case(f"float32, {size} at a time", Execution(micro_batch_size=size)),
        Case("float32, recomputing", Execution(activation_checkpointing=True)),
    ]
    if device.type == "cpu":
        return found
    found.append(Case("float32, compiled", Execution(compile=True)))
    if device.type == "cuda":
        found.append(Case("tf32", Execution(precision=Precision.TF32)))
    rounded = Execution(precision=Precision.BFLOAT16)
    check_precision(rounded.precision, device)
    return [
        *found,
        Case("bfloat16", rounded),
        Case("bfloat16, compiled", rounded._replace(compile=True)),
        Case(f"bfloat16, compiled, {size} at a time", rounded._replace(compile=True, micro_batch_size=size)),
    ]


def random_batch(config: DenoiserConfig, size: int, device: torch.device) -> Batch:
    """Images in [−1, 1], and labels if there are classes."""
    network = config.network
    shape = (size, network.image_channels, network.image_size, network.image_size)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
    labels = torch.arange(size) % network.num_classes if network.num_classes else None
    return Batch(images.to(device), None if labels is None else labels.to(device))


def our_update(kind: str, preset: Preset, case: Case, batch: Batch) -> Update:
    """An update of the training loop, on one rank."""
    device, settings = batch.images.device, preset.base if kind == "base" else preset.distill
    model, objective = networks(kind, preset, case, device)
    state = TrainingState(model.train(), settings)
    conditioning = None if batch.labels is None else {"label": batch.labels}

    def update() -> None:
        random = BatchRandom(torch.Generator(device).manual_seed(state.update), len(batch.images))
        state.optimizer.zero_grad(set_to_none=True)
        size = case.execution.micro_batch_size
        loss = accumulate(objective, model, model, batch.images, conditioning, random, size)
        norm = gradient_norm(state.parameters)
        step(state.optimizer, state.parameters, norm, settings.gradient_clip_norm, (loss + norm).isfinite())
        follow(state.average, state.parameters, settings, state.update)
        state.update += 1

    return update


def networks(kind: str, preset: Preset, case: Case, device: torch.device) -> tuple[Denoiser, Objective]:
    """The model and its objective; for distillation a student of 64 steps."""
    base = build_denoiser(preset.model, seed=0)
    if kind == "base":
        return place(base, case.execution, device), BaseObjective(preset.base.loss_weight)
    network = preset.model.network.model_copy(update={"dropout": 0.0})
    student = student_of(base, preset.model.model_copy(update={"network": network}))
    teacher = place(base.eval().requires_grad_(False), case.execution, device)
    objective = DistillationObjective(teacher, 64, preset.distill.loss_weight)
    return place(student, case.execution, device), objective


def plain_update(preset: Preset, batch: Batch) -> Update:
    """Base training as in a short script over diffusers."""
    diffusers: Any = importlib.import_module("diffusers")
    config, settings, device = preset.model, preset.base, batch.images.device
    set_float32_products(Precision.FLOAT32, device)
    model = diffusers.UNet2DModel(**diffusers_config(config.network, config.out_channels)).to(device).train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        weight_decay=settings.weight_decay,
        fused=True,
    )
    average = [parameter.detach().clone() for parameter in parameters]
    x = batch.images

    def update() -> None:
        t, eps = torch.rand(len(x), device=device), torch.randn_like(x)
        z = diffuse(x, eps, t)
        output = model(z, t * TIME_SCALE - 1, class_labels=batch.labels).sample
        target = velocity_from_x_eps(x, eps, t)
        loss = weighted_loss(output, target, z, t, config.prediction, settings.loss_weight).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, settings.gradient_clip_norm)
        optimizer.step()
        follow(average, parameters, settings, 1000)

    return update


def follow(average: list[Tensor], parameters: list[Any], settings: TrainingSettings, update: int) -> None:
    """Update the moving average, if there is one."""
    if settings.ema_decay is not None and average:
        weight = 1 - ema_decay_at(settings.ema_decay, update)
        torch._foreach_lerp_(average, [p.detach() for p in parameters], weight)


def seconds(update: Update, device: torch.device) -> float:
    """Wall-clock seconds of one update, synchronized."""
    began = time.perf_counter()
    update()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - began


def print_row(name: str, images: float, ratio: float, device: torch.device) -> None:
    """Print a row. Peak memory since the previous row, on CUDA only, includes the parameters of `plain`."""
    memory = f"{'':>7}"
    if device.type == "cuda":
        memory = f"{torch.cuda.max_memory_allocated() / 1e9:7.1f}"
        torch.cuda.reset_peak_memory_stats()
    print(f"{name:44}{images:>10.1f}{ratio:>8.2f}{memory}", flush=True)


def name_of(device: torch.device) -> str:
    """The model name of the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


if __name__ == "__main__":
    main()
