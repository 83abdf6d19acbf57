"""Randomness as a function of (seed, purpose, index): never of process history, batch or order."""

import hashlib
import json
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def seed_for(seed: int, purpose: str, *index: int) -> int:
    """A seed in [0, 2⁶³) for one purpose and index, the same in every process and version."""
    key = json.dumps([seed, purpose, *index]).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) >> 1


def generator(seed: int, purpose: str, *index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A new generator on `device`, seeded by `seed_for`.

    CPU generators use 32 bits of the seed: with 50,000 samples, two share their noise for one seed in four.
    """
    return torch.Generator(device).manual_seed(seed_for(seed, purpose, *index))


def sample_noise(
    seed: int, purpose: str, indices: Sequence[int], shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> Float[Tensor, " indices *shape"]:
    """Standard Gaussian noise on the CPU, one row per index.

    A row is a function of (seed, purpose, index) alone. It is drawn in float32, then converted to `dtype`.
    """
    noise = torch.empty((len(indices), *shape))
    source = torch.Generator()
    for row, index in zip(noise, indices, strict=True):
        torch.randn(shape, generator=source.manual_seed(seed_for(seed, purpose, index)), out=row)
    return noise.to(dtype)
