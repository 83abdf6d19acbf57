"""Tensors that FSDP has sharded: a rank's own rows of them."""

import math

from torch import Tensor

from progdistill.training.snapshots import FlatSlice


def is_dtensor(tensor: Tensor) -> bool:
    """Whether FSDP has sharded the tensor; found without importing DTensor, which takes a second."""
    return hasattr(tensor, "to_local")


def to_local(tensor: Tensor) -> Tensor:
    """This rank's shard of a DTensor, or the tensor itself; not a copy."""
    return tensor.to_local() if is_dtensor(tensor) else tensor  # type: ignore[attr-defined]


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole tensor, to be called on all ranks at once."""
    return tensor.full_tensor() if is_dtensor(tensor) else tensor  # type: ignore[attr-defined]


def flat_slice(tensor: Tensor) -> FlatSlice:
    """Where this rank's shard lies in the flattened tensor; FSDP splits dimension 0 as torch.chunk does."""
    shard = to_local(tensor)
    if not is_dtensor(tensor):
        return FlatSlice(shard.flatten(), 0, shard.numel())
    mesh = tensor.device_mesh  # type: ignore[attr-defined]
    rows_each = -(-tensor.shape[0] // mesh.size())
    first = min(mesh.get_local_rank() * rows_each, tensor.shape[0])
    # Not the size of tensor[0], whose indexing communicates.
    return FlatSlice(shard.flatten(), first * math.prod(tensor.shape[1:]), tensor.numel())
