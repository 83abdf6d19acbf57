"""How a job's networks run on the device it found: every `auto` of the compute settings decided."""

from typing import NamedTuple

import torch

from progdistill.errors import UsageError
from progdistill.training.config import ComputeSettings, Precision

BYTES_PER_WEIGHT = 24
"""What a distillation keeps of a weight under DDP, in float32: itself, its gradient, its moving average, the
optimizer's two moments, and the teacher's."""


class Execution(NamedTuple):
    """What is left of the compute settings when nothing is open any more."""

    precision: Precision = Precision.FLOAT32
    compile: bool = False
    activation_checkpointing: bool = False
    sharded: bool = False
    micro_batch_size: int | None = None


def decide(
    compute: ComputeSettings, precision: Precision, device: torch.device, ranks: int, parameters: int
) -> Execution:
    """Decide for a network of so many parameters; `precision` is the job's.

    Raises UsageError for a precision that the device does not have, and for sharded weights with one rank or
    with compilation.
    """
    check_precision(precision, device)
    sharded = compute.parallelism == "fsdp" or (
        compute.parallelism == "auto" and ranks > 1 and not _fits(parameters, device)
    )
    if sharded and ranks == 1:
        raise UsageError(
            "compute.parallelism=fsdp shares weights among ranks, and this job has one: leave it out, or set"
            " compute.ranks to the number of devices"
        )
    if sharded and compute.compile == "on":
        raise UsageError(
            "compute.compile=on with compute.parallelism=fsdp is not supported: leave one of them out"
        )
    return Execution(
        precision=precision,
        compile=compute.compile == "on"
        or (compute.compile == "auto" and device.type != "cpu" and not sharded),
        activation_checkpointing=compute.activation_checkpointing,
        sharded=sharded,
        micro_batch_size=compute.micro_batch_size,
    )


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raise UsageError for a precision that would be emulated or ignored; a CPU has bfloat16, if slow."""
    if precision is Precision.TF32 and device.type != "cuda":
        raise UsageError(f"compute.precision=tf32 is for CUDA GPUs, not for {device.type}: use float32")
    if precision is Precision.BFLOAT16 and device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return
        raise UsageError(
            f"{torch.cuda.get_device_name(device)} has no bfloat16 arithmetic: set compute.precision=float32"
        )


def _fits(parameters: int, device: torch.device) -> bool:
    """Whether what DDP keeps of the weights leaves half of the memory free; only GPUs are asked."""
    if device.type != "cuda":
        return True
    memory: int = torch.cuda.get_device_properties(device).total_memory
    return BYTES_PER_WEIGHT * parameters <= memory / 2
