"""A picture of some of a dataset's images, side by side."""

import math
from typing import Final

import numpy as np
from PIL import Image

from progdistill.data.dataset import DatasetInfo
from progdistill.data.reading import iterate_images

TILE_PIXELS: Final = 32
"""Images smaller than this are enlarged by a whole factor, every pixel a square."""


def sample_grid(info: DatasetInfo, split: str, count: int) -> Image.Image:
    """The first `count` images of a split in rows, about as wide as high; stored order is shuffled."""
    images, _ = next(iterate_images(info, split, count))
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    size = info.image_size
    tiles = np.zeros((rows * columns, size, size, info.channels), np.uint8)
    tiles[: len(images)] = images
    grid = tiles.reshape(rows, columns, size, size, info.channels).transpose(0, 2, 1, 3, 4)
    picture = Image.fromarray(np.squeeze(grid.reshape(rows * size, columns * size, info.channels)))
    factor = max(1, math.ceil(TILE_PIXELS / size))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
