"""Optimizers: AdamW, with moments in float32 or, by bitsandbytes, in 8 bits (Dettmers et al. 2022), and Muon."""

import logging
from collections.abc import Sequence, Set
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from progdistill.errors import UsageError
from progdistill.training.config import OptimizerName, TrainingSettings
from progdistill.training.muon import Muon


def make_optimizer(
    groups: list[dict[str, Any]], settings: TrainingSettings, tables: Set[Tensor] = frozenset()
) -> torch.optim.Optimizer:
    """The optimizer of a training.

    Args:
        groups: Parameters by `params`, with other values of their own.
        settings: Decide which, and its constants.
        tables: The weights of embeddings.

    Raises:
        UsageError: bitsandbytes is not installed, or the parameters are sharded.
    """
    constants: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "weight_decay": settings.weight_decay,
    }
    if settings.optimizer is OptimizerName.ADAMW:
        return torch.optim.AdamW(groups, **constants, fused=True)
    if settings.optimizer is OptimizerName.MUON:
        return Muon(groups, tables, **constants)
    if any(hasattr(parameter, "full_tensor") for group in groups for parameter in group["params"]):
        raise UsageError(
            "optimizer=adamw_8bit is not for sharded weights, whose moments are spread over the ranks already: set"
            " compute.parallelism=ddp, or optimizer=adamw"
        )
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # It warns of kernels for 4-bit networks.
    try:
        from bitsandbytes.optim import AdamW8bit
    except ModuleNotFoundError as error:
        raise UsageError("optimizer=adamw_8bit needs bitsandbytes: pip install 'progdistill[bitsandbytes]'") from error
    eight_bit: torch.optim.Optimizer = AdamW8bit(groups, **constants)
    return eight_bit


def step(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[Tensor],
    norm: Float[Tensor, ""],
    limit: float,
    is_finite: Bool[Tensor, ""],
) -> None:
    """Make an update from the gradient, scaled down to a norm of `limit`; none at all if it is not finite.

    AdamW does both in its only pass over the gradient, by what torch.amp.GradScaler would set, without a wait for the
    device; moments in 8 bits wait.
    """
    if isinstance(optimizer, torch.optim.AdamW):
        scaled: Any = optimizer
        scaled.grad_scale, scaled.found_inf = ((norm + 1e-6) / limit).clamp(min=1), (~is_finite).float()
        optimizer.step()
    elif is_finite:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        optimizer.step()


def state_tensors(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """What changes in the state of a parameter, by name; empty before the first update."""
    found = optimizer.state[parameter].items()
    return {name: value for name, value in found if isinstance(value, Tensor) and not name.startswith("qmap")}


def start_state(optimizer: torch.optim.Optimizer, update: int) -> None:
    """Give every parameter a state as after `update` updates, with moments of zero, for a snapshot to fill."""
    for group_index, group in enumerate(optimizer.param_groups):
        for index, parameter in enumerate(group["params"]):
            if group.get("is_matrix"):
                optimizer.state[parameter] = {"momentum": torch.zeros_like(parameter)}
            elif isinstance(optimizer, torch.optim.AdamW):
                optimizer.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
            else:
                eight_bit: Any = optimizer
                eight_bit.init_state(group, parameter, group_index, index)
                eight_bit.state[parameter]["step"] = update
