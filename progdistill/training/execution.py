"""How networks run: precision, micro-batches, compilation and sharding."""

from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from progdistill.errors import UsageError
from progdistill.models.denoiser import Denoiser
from progdistill.training.config import ComputeSettings, Precision

BYTES_PER_PARAMETER = 24
"""Memory of a distillation under DDP, in float32: parameter, gradient, moving average, two moments of Adam,
teacher's parameter."""


class Execution(NamedTuple):
    """How a network runs: the compute settings after every `auto` is decided."""

    precision: Precision = Precision.FLOAT32
    compile: bool = False
    activation_checkpointing: bool = False
    sharded: bool = False
    micro_batch_size: int | None = None
    channels_last: bool = False


def decide(
    compute: ComputeSettings, precision: Precision, device: torch.device, world_size: int, parameters: int
) -> Execution:
    """Decide how a network runs.

    Args:
        parameters: Number of the network's parameters; `auto` shards them where they do not fit in memory.

    Raises:
        UsageError: The device does not support the precision, or sharding is combined with a single rank or
            with channels_last.
    """
    check_precision(precision, device)
    sharded = compute.parallelism == "fsdp" or (
        compute.parallelism == "auto" and world_size > 1 and not _fits(parameters, device)
    )
    if sharded and world_size == 1:
        raise UsageError(
            "compute.parallelism=fsdp shards parameters over ranks, and this job has one: leave it out, or"
            " set compute.world_size to the number of devices"
        )
    if sharded and compute.channels_last == "on":
        raise UsageError("compute.channels_last=on is not for sharded weights: leave it or parallelism=fsdp out")
    return Execution(
        precision=precision,
        compile=compute.compile == "on" or (compute.compile == "auto" and device.type != "cpu"),
        activation_checkpointing=compute.activation_checkpointing,
        sharded=sharded,
        micro_batch_size=compute.micro_batch_size,
        # FSDP shards contiguous weights only.
        channels_last=compute.channels_last == "on"
        or (compute.channels_last == "auto" and device.type != "tpu" and not sharded),
    )


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raise UsageError for a precision that the device would emulate or ignore; CPUs do support bfloat16."""
    if precision is Precision.TF32 and device.type != "cuda":
        raise UsageError(f"compute.precision=tf32 is for CUDA GPUs, not for {device.type}: use float32")
    if precision is Precision.BFLOAT16 and device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return
        raise UsageError(
            f"{torch.cuda.get_device_name(device)} has no bfloat16 arithmetic: set compute.precision=float32"
        )


def _fits(parameters: int, device: torch.device) -> bool:
    """Whether DDP leaves half of a GPU's memory free; always true elsewhere."""
    if device.type != "cuda":
        return True
    memory: int = torch.cuda.get_device_properties(device).total_memory
    return BYTES_PER_PARAMETER * parameters <= memory / 2


def place(denoiser: Denoiser, execution: Execution, device: torch.device, shared: bool = False) -> Denoiser:
    """Move a denoiser to `device` and make it run as decided, in place; names of parameters do not change.

    A network that is shared with another denoiser is left to that one.
    """
    set_float32_products(execution.precision, device)
    denoiser.to(device)
    if execution.channels_last:
        nn.Module.to(denoiser, memory_format=torch.channels_last)
    denoiser.autocasts = execution.precision is Precision.BFLOAT16
    if shared:
        return denoiser
    if execution.compile and execution.sharded:
        compile_blocks(denoiser)  # before what follows wraps them
    if execution.activation_checkpointing and any(p.requires_grad for p in denoiser.parameters()):
        recompute_activations(denoiser)
    if execution.compile and not execution.sharded:
        denoiser.network.compile(dynamic=False)
    if execution.sharded:
        from torch.distributed.fsdp import fully_shard  # Importing it takes a second.

        for module in denoiser.ask.blocks(denoiser.network):
            fully_shard(module)
        fully_shard(denoiser)
    return denoiser


class Reading:
    """A few numbers on their way from the device, to be waited for when they are needed."""

    def __init__(self, numbers: Float[Tensor, " numbers"]) -> None:
        self._numbers = numbers.to("cpu", non_blocking=numbers.is_cuda)
        self._arrived = torch.cuda.current_stream().record_event() if numbers.is_cuda else None

    def values(self) -> list[float]:
        """The numbers, when they have arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        found: list[float] = self._numbers.tolist()
        return found


def compile_blocks(denoiser: Denoiser) -> None:
    """Compile each block by itself: FSDP gathers a block's weights before it and frees them after it, outside."""
    import torch._dynamo

    # Blocks of one class count as one function, compiled anew for each shape; by default torch gives up after eight.
    torch._dynamo.config.recompile_limit = 256
    for module in denoiser.ask.blocks(denoiser.network):
        module.forward = torch.compile(module.forward, dynamic=False)


def recompute_activations(denoiser: Denoiser) -> None:
    """Keep only the inputs of the network's blocks for the backward pass, which computes the rest again."""
    for module in denoiser.ask.blocks(denoiser.network):
        module.forward = partial(checkpoint, module.forward, use_reentrant=False)


def set_float32_products(precision: Precision, device: torch.device) -> None:
    """Compute float32 products in float32, or in TensorFloat-32 with that precision.

    By default CUDA convolves in TensorFloat-32, and TPUs multiply float32 as bfloat16.
    """
    if device.type == "cuda":
        how = "tf32" if precision is Precision.TF32 else "ieee"
        torch.backends.cuda.matmul.fp32_precision = how
        torch.backends.cudnn.conv.fp32_precision = how  # type: ignore[attr-defined]
    elif device.type == "tpu":
        torch.set_float32_matmul_precision("highest")
