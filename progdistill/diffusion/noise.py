"""Randomness as a function of (seed, purpose, index), never of what ran before."""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def seed_for(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit seed from SHA-256 over (seed, purpose, index): stable across versions and machines."""
    text = "/".join([str(seed), purpose, *map(str, index)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device` for (seed, purpose, index)."""
    return torch.Generator(device).manual_seed(seed_for(seed, purpose, *index))


def sample_noise(
    seed: int,
    purpose: str,
    indices: Sequence[int],
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "batch ..."]:
    """Standard normal noise on the CPU, one row an index, each a function of (seed, purpose, index)."""
    rows = [torch.randn(shape, generator=generator(seed, purpose, index)) for index in indices]
    return torch.stack(rows).to(dtype) if rows else torch.empty(0, *shape, dtype=dtype)
