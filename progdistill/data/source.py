"""What importers provide: named, numbered images for each split, readable from any number."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue, NonNegativeInt

from progdistill.data.columns import IMAGE, LABEL_COLUMN, LATENT_MEAN, Column
from progdistill.data.formats import IMAGE_SUFFIXES
from progdistill.models_base import Frozen

Pixels = NDArray[np.uint8]
"""One image: uint8 [height, width, channel], 0..255, channels in the order red, green, blue."""


class UnreadableImageError(Exception):
    """One image of a source cannot be decoded. Preparation skips it, up to a limit."""


class ImageFacts(Frozen):
    """What all samples of a dataset have in common."""

    channels: Literal[0, 1, 3]
    """0: the dataset has no images."""
    image_size: NonNegativeInt
    """Height and width in pixels; 0: the dataset has no images."""
    class_names: tuple[str, ...]
    """Label k is class_names[k]. Empty: the images have no classes, and every label is 0."""
    horizontal_flip_safe: bool
    """Whether a mirrored image is as plausible as the image. False for digits and letters."""
    columns: tuple[Column, ...] = ()
    """What is stored beside, or instead of, image and label: captions, latents, what networks are conditioned on."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return (self.image_size, self.image_size, self.channels)

    @property
    def stored_columns(self) -> tuple[Column, ...]:
        """Everything that is stored of a sample, in the order of the fingerprint."""
        image = [Column(name=IMAGE, shape=self.image_shape, dtype="uint8")] if self.image_size else []
        return (*image, LABEL_COLUMN, *self.columns)

    @property
    def sample_shape(self) -> tuple[int, int, int] | None:
        """What a model of this dataset makes, (channels, height, width): latents if there are any, else images.

        None: the dataset has neither.
        """
        for column in self.columns:
            if column.name == LATENT_MEAN:
                channels, height, width = column.shape
                return (channels, height, width)
        return (self.channels, self.image_size, self.image_size) if self.image_size else None


class SourceFacts(ImageFacts):
    """What is known about a source before its images are decoded."""

    importer: str
    location: str
    description: str
    """How pixels are derived from the source's, such as "center crop, area resize to 64×64"."""
    identity: dict[str, JsonValue]
    """Identifies the source and the options. A preparation resumes only if it is equal."""
    splits: dict[str, int]
    """Number of images in each split."""
    labels_from: str = ""
    """Where the labels come from, such as `column label`. Empty: the images have no classes."""
    not_used: tuple[str, ...] = ()
    """What else the source has: one line for each reason, with the first names and the number."""


class SourceImage(NamedTuple):
    """One image of a source."""

    name: str
    label: int
    pixels: Pixels | Callable[[], Pixels] | None
    """The image, or a function that decodes it, callable from any thread and in any order; None: there is none."""
    caption: str = ""
    """Stored if the source has the column `caption`."""


class Source(ABC):
    """Images to prepare: equal sources give equal images in equal order.

    An importer sets `facts` on construction, and raises UsageError for files that it cannot use.
    """

    facts: SourceFacts

    @abstractmethod
    def read(self, split: str, start: int = 0) -> Iterator[SourceImage]:
        """Yield the images of `split` from number `start` on, holding only a few in memory."""


def is_image_name(name: str) -> bool:
    """Whether a file name (without folders) has an image suffix and is not hidden."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")
