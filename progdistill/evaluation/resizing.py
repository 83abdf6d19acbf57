"""Resizing as Pillow does, for whole batches on any device: it is linear, so two matrices do it."""

from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor


def resize_bicubic(
    images: Float[Tensor, "batch channels height width"], size: int
) -> Float[Tensor, "batch channels size size"]:
    """Resize to `size` × `size` with Pillow's bicubic filter in floating point, clipped to [0, 255].

    That is clean-fid's "clean" way (Parmar et al. 2022), which antialiases and never rounds to bytes.
    """
    height, width = images.shape[2:]
    down, across = _matrix(height, size).to(images), _matrix(width, size).to(images)
    return (down @ images @ across.T).clamp(0, 255)


@cache
def _matrix(size: int, resized: int) -> Float[Tensor, "resized size"]:
    """What Pillow's resizing does to a line of pixels, found by resizing each unit vector."""
    units = Image.fromarray(np.eye(size, dtype=np.float32))
    return torch.from_numpy(np.array(units.resize((resized, size), Image.Resampling.BICUBIC))).T.contiguous()
