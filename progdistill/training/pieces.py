"""Tensors that ranks share out: this rank's piece, and the whole. Any other tensor is its own only piece."""

import math

from torch import Tensor

from progdistill.artifacts.snapshots import FlatSlice, Snapshot


def is_shared_out(tensor: Tensor) -> bool:
    """Whether this is FSDP's kind of tensor, told without importing it, which takes a second."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """This rank's rows, or the tensor itself; no copy."""
    rows: Tensor = tensor.to_local() if is_shared_out(tensor) else tensor  # type: ignore[attr-defined]
    return rows


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor on every rank; all ranks must ask at once."""
    gathered: Tensor = tensor.full_tensor() if is_shared_out(tensor) else tensor  # type: ignore[attr-defined]
    return gathered


def flat_slice(tensor: Tensor) -> FlatSlice:
    """Where this rank's rows lie in the flattened tensor; FSDP splits the first dimension as torch.chunk."""
    rows = local(tensor)
    if not is_shared_out(tensor):
        return FlatSlice(rows.flatten(), 0, rows.numel())
    mesh = tensor.device_mesh  # type: ignore[attr-defined]
    rows_each = -(-tensor.shape[0] // mesh.size())
    first = min(mesh.get_local_rank() * rows_each, tensor.shape[0])
    # Not of tensor[0]: that would be an exchange between ranks.
    return FlatSlice(rows.flatten(), first * math.prod(tensor.shape[1:]), tensor.numel())


def put_back(snapshot: Snapshot, name: str, tensor: Tensor) -> None:
    """Fill a tensor of any kind in place from a snapshot that ranks of any number and kind have written."""
    piece = flat_slice(tensor)
    if piece.tensor.numel() == 0:
        return  # more ranks than rows
    found = snapshot.read_flat(name, piece.offset, piece.tensor.numel())
    local(tensor).copy_(found.view(local(tensor).shape))
