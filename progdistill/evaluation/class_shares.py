"""Which class each sample shows, so that any number of samples has the classes in the shares of the data."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def classes_in_shares(indices: NDArray[np.int64], counts: tuple[int, ...]) -> NDArray[np.int64]:
    """The class of each sample index ≥ 0 for data with `counts` images of each class, not all 0.

    A class is a function of its index alone. Whatever the number of samples n, class k gets n·counts[k]/Σ of
    them, rounded as Webster's method apportions seats (to within a window of as many samples as there are
    classes, which are in the order of classes). Equal counts give index mod classes.
    """
    if len(indices) == 0:
        return np.empty(0, np.int64)
    windows = int(indices.max()) // len(counts) + 1
    return _first(counts, len(counts) << (windows - 1).bit_length())[indices]


@lru_cache(maxsize=4)
def _first(counts: tuple[int, ...], length: int) -> NDArray[np.int64]:
    """The classes of the first `length` samples, whole windows of them.

    The j-th image of class k comes at (2j + 1) / counts[k]; up to the time (2·length + classes) / Σ counts
    there are at least `length` of them.
    """
    images = np.array(counts, np.float64)
    until = (2 * length + len(counts)) / images.sum()
    of_class = np.floor((until * images + 1) / 2).astype(np.int64)
    classes = np.repeat(np.arange(len(counts)), of_class)
    place = np.arange(len(classes)) - np.repeat(np.cumsum(of_class) - of_class, of_class)
    order = np.argsort((2 * place + 1) / images[classes], kind="stable")[:length]
    sequence = np.sort(classes[order].reshape(-1, len(counts)), axis=1).ravel()
    sequence.flags.writeable = False
    return sequence
