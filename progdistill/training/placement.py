"""A network on its device: its precision, compiled, recomputing, or with weights shared among ranks."""

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from progdistill.models.blocks import Attention, Residual
from progdistill.models.denoiser import Denoiser
from progdistill.training.config import Precision
from progdistill.training.execution import Execution


def place(denoiser: Denoiser, execution: Execution, device: torch.device) -> Denoiser:
    """Move a denoiser to `device` and have it run as decided; its weights keep their names. In place."""
    set_float32_products(execution.precision, device)
    denoiser.to(device)
    denoiser.autocasts = execution.precision is Precision.BFLOAT16
    if execution.activation_checkpointing and any(p.requires_grad for p in denoiser.parameters()):
        for module in _blocks(denoiser):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)
    if execution.compile:
        denoiser.network.compile(dynamic=False)
    if execution.sharded:
        from torch.distributed.fsdp import fully_shard  # Importing it takes a second.

        # Not a U-Net's levels: they share a list of skip connections, which FSDP would copy.
        for module in _blocks(denoiser):
            fully_shard(module)
        fully_shard(denoiser)
    return denoiser


def set_float32_products(precision: Precision, device: torch.device) -> None:
    """Have products of float32 numbers computed in float32, or in TensorFloat-32 where that is asked for.

    By default CUDA convolves in TensorFloat-32, and a TPU multiplies float32 as bfloat16.
    """
    if device.type == "cuda":
        how = "tf32" if precision is Precision.TF32 else "ieee"
        torch.backends.cuda.matmul.fp32_precision = how
        torch.backends.cudnn.conv.fp32_precision = how  # type: ignore[attr-defined]
    elif device.type == "tpu":
        torch.set_float32_matmul_precision("highest")


def _blocks(denoiser: Denoiser) -> list[nn.Module]:
    """What nearly all weights and activations are in."""
    return [module for module in denoiser.network.modules() if isinstance(module, Residual | Attention)]
