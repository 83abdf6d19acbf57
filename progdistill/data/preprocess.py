"""How an encoded image of any size and mode becomes the pixels of a dataset."""

import io
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import PositiveInt

from progdistill.data.source import Pixels, UnreadableImageError
from progdistill.models_base import Frozen


class Crop(StrEnum):
    """What of an image that is not square is kept."""

    CENTER = "center"
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


class ImageRule(Frozen):
    """Crop, size, filter and channels of prepared images."""

    image_size: PositiveInt | None
    """Height and width in pixels. None: every image is used as it is, and all must have one square size."""
    crop: Crop = Crop.CENTER
    resize: Resize = Resize.AREA
    channels: Literal[1, 3] = 3
    upright: bool = False
    """Whether to turn photographs as their camera's orientation tag says."""

    def describe(self) -> str:
        """The rule for people, such as `center crop, area resize to 64×64`."""
        colors = "" if self.channels == 3 else ", grayscale"
        if self.image_size is None:
            return f"as they are{colors}"
        cut = "center crop" if self.crop is Crop.CENTER else "stretched"
        return f"{cut}, {self.resize} resize to {self.image_size}×{self.image_size}{colors}"


def decode_image(data: bytes, rule: ImageRule) -> Pixels:
    """Decode an image file's bytes and apply the rule: 16 bits become 8, what is transparent becomes white.

    Raises UnreadableImageError when it cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            upright = ImageOps.exif_transpose(opened) if rule.upright else opened
            image = _opaque(_in_bytes(upright)).convert("RGB" if rule.channels == 3 else "L")
    except UnidentifiedImageError as error:
        raise UnreadableImageError("no image of a known format") from error
    except UnreadableImageError:
        raise
    except Exception as error:  # Decoders of damaged files raise almost anything.
        raise UnreadableImageError(str(error) or type(error).__name__) from error
    if rule.image_size is None:
        return np.asarray(image).reshape(image.height, image.width, rule.channels)
    return np.stack([_fitted(band, rule, rule.image_size) for band in image.split()], axis=-1)


def _in_bytes(image: Image.Image) -> Image.Image:
    """16-bit grayscale as 8-bit (65535 becomes 255), which Pillow would cut off at 255 instead."""
    if image.mode == "F":
        raise UnreadableImageError("its pixels are floating-point numbers, of which no range is known")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise UnreadableImageError("its pixels are 32-bit numbers, of which no range is known")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    """The image over white: the color that a file keeps under transparent pixels is arbitrary."""
    if not image.has_transparency_data:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))


def _fitted(band: Image.Image, rule: ImageRule, size: int) -> NDArray[np.uint8]:
    """One channel, cropped and resized; in floating point, since Pillow would round bytes twice."""
    box = _center_square(*band.size) if rule.crop is Crop.CENTER else (0, 0, *band.size)
    resized = band.convert("F").resize((size, size), _FILTERS[rule.resize], box=box)
    rounded: NDArray[np.float32] = np.rint(np.asarray(resized, np.float32))
    return rounded.clip(0, 255).astype(np.uint8)


def _center_square(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the middle square; odd margins fall as in the paper's published code."""
    side = min(width, height)
    left, top = width // 2 - side // 2, height // 2 - side // 2
    return left, top, left + side, top + side
