"""The gradient of one update: summed over micro-batches and ranks, then clipped."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from progdistill.models.denoiser import Denoiser
from progdistill.training.objective import Images, Labels, Objective
from progdistill.training.random import BatchRandom
from progdistill.training.state import whole


def accumulate(
    objective: Objective,
    model: Denoiser,
    network: nn.Module,
    x: Images,
    labels: Labels | None,
    draws: BatchRandom,
    micro_batch_size: int | None,
) -> Float[Tensor, ""]:
    """Add the gradient of the mean loss over this rank's images, and return that mean, detached.

    At most `micro_batch_size` images are in memory at a time. DDP's ranks exchange gradients with the last of
    them alone; FSDP's with each, so that no rank ever holds the whole gradient.
    """
    images = len(x)
    size = micro_batch_size or images
    losses = []
    for start in range(0, images, size):
        rows = slice(start, min(start + size, images))
        waits = isinstance(network, DistributedDataParallel) and rows.stop < images
        with network.no_sync() if waits else nullcontext():  # type: ignore[operator]
            part = None if labels is None else labels[rows]
            loss = objective(model, network, x[rows], part, draws.of_rows(rows))
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
    return float(whole(nn.utils.clip_grad_norm_(parameters, limit)))
