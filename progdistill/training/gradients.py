"""The gradient of one update: summed over micro-batches and ranks, then clipped."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from progdistill.models.conditioning import Conditioning, rows_of
from progdistill.models.denoiser import Denoiser, Images
from progdistill.training.objective import Objective
from progdistill.training.random import BatchRandom
from progdistill.training.state import full_tensor


def accumulate(
    objective: Objective,
    model: Denoiser,
    network: nn.Module,
    x: Images,
    conditioning: Conditioning | None,
    random: BatchRandom,
    micro_batch_size: int | None,
) -> Float[Tensor, ""]:
    """Add the gradient of the mean loss over this rank's images to the parameters' `grad`.

    DDP all-reduces gradients with the last micro-batch only; FSDP with each, so that no rank ever holds the
    whole gradient.

    Args:
        objective: The loss, called with `model`, `network`, and micro-batches of `x`, `conditioning` and `random`.
        x: This rank's images.
        micro_batch_size: Images in memory at a time; None: all.

    Returns:
        The mean loss, detached.
    """
    images = len(x)
    size = micro_batch_size or images
    losses = []
    for start in range(0, images, size):
        rows = slice(start, min(start + size, images))
        accumulates = isinstance(network, DistributedDataParallel) and rows.stop < images
        with network.no_sync() if accumulates else nullcontext():  # type: ignore[operator]
            part = rows_of(conditioning, rows)
            loss = objective(model, network, x[rows], part, random.slice(rows.start, rows.stop))
            if size < images:
                loss = loss * ((rows.stop - rows.start) / images)
            loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def mean_over_ranks(loss: Float[Tensor, ""], world_size: int) -> float:
    """The loss of the whole batch, the same on every rank: not finite on all if it is on one."""
    if world_size > 1:
        torch.distributed.all_reduce(loss)
        loss = loss / world_size
    return float(loss)


def clip_gradients(parameters: Sequence[Tensor], limit: float) -> float:
    """Scale gradients to a norm of at most `limit`; return the norm before, the same on every rank."""
    return float(full_tensor(nn.utils.clip_grad_norm_(parameters, limit)))
