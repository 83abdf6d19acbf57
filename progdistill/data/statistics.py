"""Statistics of a split: images per class, and the mean and standard deviation of each channel."""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, Field, NonNegativeInt

from progdistill.models_base import Frozen


class SplitStatistics(Frozen):
    """Exact statistics of a split, computed when it was prepared."""

    class_counts: tuple[NonNegativeInt, ...]
    """Number of images in each class."""
    mean: tuple[float, ...]
    """Mean pixel value of each channel, 0..255."""
    std: tuple[float, ...] = Field(validation_alias=AliasChoices("std", "spread"))
    """Standard deviation of each channel's pixel values. Older manifests call it `spread`."""


class PixelSums(NamedTuple):
    """Integer sums over images: adding them up is exact in any order."""

    class_counts: NDArray[np.int64]
    pixels: int
    """Pixels of one channel."""
    sums: NDArray[np.uint64]
    squares: NDArray[np.uint64]

    @classmethod
    def of(cls, images: NDArray[np.uint8], labels: NDArray[np.int64], classes: int) -> Self:
        """Sum over images, uint8 [count, height, width, channel], and labels, int64 [count]."""
        count, height, width, channels = images.shape
        # Sum over images first: numpy adds long rows twenty times faster than a few channels at a time.
        rows = images.reshape(count, -1)
        sums = rows.sum(axis=0, dtype=np.uint64)
        squares = np.square(rows, dtype=np.uint16).sum(axis=0, dtype=np.uint64)
        return cls(
            np.bincount(labels, minlength=classes)[:classes],
            count * height * width,
            sums.reshape(-1, channels).sum(axis=0),
            squares.reshape(-1, channels).sum(axis=0),
        )

    def plus(self, other: "PixelSums") -> "PixelSums":
        """Return the sums over both sets of images."""
        return PixelSums(
            self.class_counts + other.class_counts,
            self.pixels + other.pixels,
            self.sums + other.sums,
            self.squares + other.squares,
        )

    def statistics(self) -> SplitStatistics:
        """Return the statistics of the images summed."""
        mean = self.sums / self.pixels
        std = np.sqrt(np.maximum(self.squares / self.pixels - mean**2, 0))
        return SplitStatistics(
            class_counts=tuple(self.class_counts.tolist()), mean=tuple(mean.tolist()), std=tuple(std.tolist())
        )
