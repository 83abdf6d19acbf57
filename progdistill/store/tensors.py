"""Reads safetensors files, whose header may lie although their digest is right."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from progdistill.errors import LostInvariantError


def load_tensors(path: Path, *names: str) -> dict[str, Tensor]:
    """Read all tensors of a file; LostInvariantError where it is no safetensors file, or lacks one of `names`."""
    try:
        found = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise LostInvariantError(f"{path} cannot be read as safetensors: {error}") from error
    if missing := [name for name in names if name not in found]:
        raise LostInvariantError(f"{path} has no tensor {missing[0]}")
    return found
