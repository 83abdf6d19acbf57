"""What an importer gives: a numbered sequence of images for each split, readable from any number on."""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from progdistill.models_base import Frozen

Pixels = NDArray[np.uint8]
"""One image: uint8 [height, width, channel], 0..255, channels in the order red, green, blue."""


class UnreadableImageError(Exception):
    """One image of a source cannot be decoded: it is left out, within a bound."""


class SourceFacts(Frozen):
    """What is known of a source before any pixel is read."""

    importer: str
    location: str
    description: str
    """How pixels are derived from the source's, for people."""
    identity: dict[str, JsonValue]
    """What tells this source and these options from others: only if equal does a preparation go on."""
    channels: Literal[1, 3]
    image_size: int
    class_names: tuple[str, ...]
    """Empty: no labels."""
    horizontal_flip_safe: bool
    splits: dict[str, int]
    """Images of each split."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every prepared image."""
        return (self.image_size, self.image_size, self.channels)

    @property
    def image_bytes(self) -> int:
        """Bytes of one prepared image's pixels."""
        return self.image_size * self.image_size * self.channels


class SourceImage(NamedTuple):
    """One image of a source; `pixels` is the image, or decodes it, in any thread and in any order."""

    name: str
    label: int
    pixels: Pixels | Callable[[], Pixels]


class Source(Protocol):
    """Images to prepare. Equal sources give equal images in equal order."""

    @property
    def facts(self) -> SourceFacts:
        """What is known before reading."""

    def verify(self) -> None:
        """Compare with published checksums, where there are any: slow, done once a preparation.

        Raises UsageError for files that are not the published ones.
        """

    def read(self, split: str, start: int) -> Iterator[SourceImage]:
        """Yield the images of a split from number `start` on, with memory for a few of them only."""
