"""Time of our U-Net against diffusers' `UNet2DModel` with the same architecture and weights, in one process.

    python benchmarks/unet_speed.py [--threads 1] [--repeats 15] [--device cpu]

Each round times both, one after the other, so that other load affects both; the ratio is the median over
rounds of (ours / diffusers): below 1 ours is faster. Needs the `diffusers` extra.
"""

import argparse
import importlib
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from progdistill.models.config import ARCHITECTURES, UNetConfig
from progdistill.models.diffusers_format import diffusers_config, weights_to_diffusers
from progdistill.models.networks.unet import UNet

diffusers: Any = importlib.import_module("diffusers")


class Case(NamedTuple):
    """One architecture at one batch size."""

    name: str
    config: UNetConfig
    batch: int


class Timing(NamedTuple):
    """Median milliseconds of ours and of diffusers', and the median of their ratio."""

    ours: float
    theirs: float
    ratio: float


def narrowed(name: str, base_channels: int) -> UNetConfig:
    """A large architecture with fewer channels, for a CPU."""
    return ARCHITECTURES[name].model_copy(
        update={"base_channels": base_channels, "head_channels": None, "condition_channels": None, "dropout": 0.0}
    )


def cases(device: str) -> list[Case]:
    """Small networks for a CPU; on an accelerator also the full CIFAR-10 and ImageNet-64 networks."""
    small = [
        Case("digits", ARCHITECTURES["digits"], 64),
        Case("digits", ARCHITECTURES["digits"], 512),
        Case("cifar10, 64 channels", narrowed("cifar10", 64), 4),
        Case("imagenet64, 32 channels", narrowed("imagenet64", 32), 2),
    ]
    large = [Case(name, ARCHITECTURES[name], 64) for name in ("cifar10", "imagenet64")]
    return small if device == "cpu" else small + large


def main() -> None:
    """Print a line per case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"torch {torch.__version__}, diffusers {diffusers.__version__}, {args.device},"
        f" {args.threads} thread(s), median of {args.repeats} rounds; load before: {os.getloadavg()[0]:.1f}"
        f" on {os.cpu_count()} cores"
    )
    print(f"{'architecture':26}{'batch':>6}  {'pass':18}{'ours ms':>10}{'diffusers ms':>14}{'ratio':>7}")
    for case in cases(args.device):
        for label, timing in measure(case, args.device, args.repeats):
            print(
                f"{case.name:26}{case.batch:>6}  {label:18}{timing.ours:>10.1f}{timing.theirs:>14.1f}"
                f"{timing.ratio:>7.2f}",
                flush=True,
            )


def measure(case: Case, device: str, repeats: int) -> list[tuple[str, Timing]]:
    """Time the forward pass alone, then forward and backward."""
    config = case.config
    ours = UNet(config, config.image_channels).to(device)
    twin = diffusers.UNet2DModel(**diffusers_config(config, config.image_channels)).to(device)
    twin.load_state_dict(weights_to_diffusers(ours.state_dict()))
    z = torch.randn(case.batch, config.image_channels, config.image_size, config.image_size, device=device)
    t = torch.rand(case.batch, device=device) * 8191
    labels = torch.zeros(case.batch, dtype=torch.int64, device=device) if config.num_classes else None

    def run_ours() -> Tensor:
        output: Tensor = ours(z, t, labels)
        return output

    def run_twin() -> Tensor:
        output: Tensor = twin(z, t, class_labels=labels).sample
        return output

    forward = compare(without_gradient(run_ours), without_gradient(run_twin), device, repeats)
    both = compare(with_gradient(ours, run_ours), with_gradient(twin, run_twin), device, repeats)
    return [("forward", forward), ("forward+backward", both)]


def without_gradient(run: Callable[[], Tensor]) -> Callable[[], None]:
    """The forward pass as in sampling."""

    def step() -> None:
        with torch.no_grad():
            run()

    return step


def with_gradient(network: nn.Module, run: Callable[[], Tensor]) -> Callable[[], None]:
    """A forward and a backward pass as in training."""

    def step() -> None:
        network.zero_grad(set_to_none=True)
        run().square().mean().backward()  # type: ignore[no-untyped-call]

    return step


def compare(ours: Callable[[], None], theirs: Callable[[], None], device: str, repeats: int) -> Timing:
    """Time both alternately after a warm-up."""
    rounds = [(seconds(ours, device), seconds(theirs, device)) for _ in range(repeats + 2)][2:]
    return Timing(
        ours=1000 * statistics.median(first for first, _ in rounds),
        theirs=1000 * statistics.median(second for _, second in rounds),
        ratio=statistics.median(first / second for first, second in rounds),
    )


def seconds(step: Callable[[], None], device: str) -> float:
    """Wall-clock seconds of one step, with the device synchronized before and after."""
    drain(device)
    began = time.perf_counter()
    step()
    drain(device)
    return time.perf_counter() - began


def drain(device: str) -> None:
    """Wait until the device has finished its queue."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
