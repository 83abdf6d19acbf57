"""Random numbers as a function of (key, counter): the same on every machine and in every version of numpy."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX2: Final = np.uint64(0x94D049BB133111EB)


def random_bits(key: int, counters: NDArray[np.int64]) -> NDArray[np.uint64]:
    """64 random bits for each counter ≥ 0: element i of the SplitMix64 sequence that starts at `key`.

    SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
    """
    bits = (counters.astype(np.uint64) + np.uint64(1)) * _GOLDEN + np.uint64(key)
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX2
    return bits ^ (bits >> np.uint64(31))


def random_order(key: int, count: int) -> NDArray[np.int64]:
    """A uniformly random permutation of 0..count-1."""
    return np.argsort(random_bits(key, np.arange(count)), kind="stable")
