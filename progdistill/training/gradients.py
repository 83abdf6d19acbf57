"""The gradient of one update, summed over micro-batches and ranks, and its norm."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from progdistill.models.conditioning import Conditioning, rows_of
from progdistill.models.denoiser import Denoiser, Images
from progdistill.training.objective import Objective
from progdistill.training.profile import part
from progdistill.training.random import BatchRandom
from progdistill.training.sharding import full_tensor


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
            some = rows_of(conditioning, rows)
            with part("forward"):
                loss = objective(model, network, x[rows], some, random.slice(rows.start, rows.stop))
            if size < images:
                loss = loss * ((rows.stop - rows.start) / images)
            with part("backward"):
                loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def mean_over_ranks(loss: Float[Tensor, ""], asked_to_stop: bool, world_size: int) -> Float[Tensor, "2"]:
    """The loss of the whole batch, not finite where it is not on one rank, and how many ranks were asked to stop."""
    numbers = torch.stack((loss, torch.full_like(loss, asked_to_stop)))
    if world_size > 1:
        torch.distributed.all_reduce(numbers)
        numbers[0] /= world_size
    return numbers


def gradient_norm(parameters: Sequence[Tensor]) -> Float[Tensor, ""]:
    """The norm of the whole gradient, the same on every rank."""
    found = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return full_tensor(found)
