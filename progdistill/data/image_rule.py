"""How an encoded image of any size and mode becomes the pixels of a dataset."""

import io
from enum import StrEnum
from typing import Literal

import numpy as np
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, PositiveInt

from progdistill.data.source import Pixels, UnreadableImageError


class Crop(StrEnum):
    """What of an image that is not square is kept."""

    CENTRE = "centre"
    """The largest square in the middle."""
    STRETCH = "stretch"
    """All of it, squeezed into the square."""


class Resize(StrEnum):
    """How an image is brought to another size; all of them average over what they shrink (no aliasing)."""

    AREA = "area"
    BILINEAR = "bilinear"
    LANCZOS = "lanczos"


_FILTERS = {
    Resize.AREA: Image.Resampling.BOX,
    Resize.BILINEAR: Image.Resampling.BILINEAR,
    Resize.LANCZOS: Image.Resampling.LANCZOS,
}


class ImageRule(BaseModel):
    """Crop, size, filter and channels of prepared images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: PositiveInt | None
    """Height and width in pixels. None: every image is used as it is, and all must have one square size."""
    crop: Crop = Crop.CENTRE
    resize: Resize = Resize.AREA
    channels: Literal[1, 3] = 3
    upright: bool = False
    """Whether to turn photographs as their camera's orientation tag says."""

    def describe(self) -> str:
        """The rule for people, such as `centre crop, area resize to 64×64`."""
        colours = "" if self.channels == 3 else ", greyscale"
        if self.image_size is None:
            return f"as they are{colours}"
        cut = "centre crop" if self.crop is Crop.CENTRE else "stretched"
        return f"{cut}, {self.resize} resize to {self.image_size}×{self.image_size}{colours}"


def decode_image(data: bytes, rule: ImageRule) -> Pixels:
    """Decode an image file's bytes and apply the rule; UnreadableImageError when it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            upright = ImageOps.exif_transpose(opened) if rule.upright else opened
            image = upright.convert("RGB" if rule.channels == 3 else "L")
    except Exception as error:  # Decoders of damaged files raise almost anything.
        raise UnreadableImageError(str(error) or type(error).__name__) from error
    pixels = np.asarray(_fitted(image, rule))
    return pixels if rule.channels == 3 else pixels[:, :, None]


def _fitted(image: Image.Image, rule: ImageRule) -> Image.Image:
    if rule.image_size is None:
        return image
    box = _centre_square(*image.size) if rule.crop is Crop.CENTRE else (0, 0, *image.size)
    size = (rule.image_size, rule.image_size)
    return image.resize(size, _FILTERS[rule.resize], box=box)


def _centre_square(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the middle square; odd margins fall as in the paper's published code."""
    side = min(width, height)
    left, top = width // 2 - side // 2, height // 2 - side // 2
    return left, top, left + side, top + side
