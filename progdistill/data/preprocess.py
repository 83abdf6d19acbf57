"""Preprocessing: turns an encoded image of any size and mode into the pixels of a dataset."""

import io
import warnings
from contextlib import nullcontext
from enum import StrEnum
from threading import Lock
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import PositiveInt

from progdistill.data.formats import HEAD_BYTES, PILLOW_FORMATS, describe_content
from progdistill.data.source import Pixels, UnreadableImageError
from progdistill.models_base import Frozen

MAX_PIXELS: Final = 100_000_000
"""A larger image is not decoded: that would take gigabytes, for a file that may be small."""

LARGE_PIXELS: Final = 16_000_000
"""Larger images are decoded one at a time."""

_ONE_AT_A_TIME: Final = Lock()

warnings.filterwarnings("ignore", module=r"PIL\.")  # Of odd files; those that cannot be read are errors.


class Crop(StrEnum):
    """How an image is made square."""

    CENTER = "center"
    """Keep the largest centered square."""
    STRETCH = "stretch"
    """Keep everything and ignore the aspect ratio."""


class Resize(StrEnum):
    """Resampling filters. All of them are antialiased."""

    AREA = "area"
    """The mean of the whole pixels whose centers an output pixel covers, as the published 64×64 ImageNet was made."""
    AREA_COVERAGE = "area_coverage"
    """The mean of all pixels weighted by how much of each is covered, as the paper's published code resizes."""
    BILINEAR = "bilinear"
    LANCZOS = "lanczos"


_FILTERS = {
    Resize.AREA: Image.Resampling.BOX,
    Resize.BILINEAR: Image.Resampling.BILINEAR,
    Resize.LANCZOS: Image.Resampling.LANCZOS,
}


class Preprocessing(Frozen):
    """Crop, size, filter and channels of the prepared images."""

    image_size: PositiveInt | None
    """Height and width in pixels. None: images are used as they are, and must all have one square size."""
    crop: Crop = Crop.CENTER
    resize: Resize = Resize.AREA
    channels: Literal[1, 3] = 3
    upright: bool = False
    """Whether to apply the EXIF orientation."""

    def describe(self) -> str:
        """Describe it for people, such as `center crop, area resize to 64×64`."""
        colors = "" if self.channels == 3 else ", grayscale"
        if self.image_size is None:
            return f"as they are{colors}"
        crop = "center crop" if self.crop is Crop.CENTER else "stretched"
        return f"{crop}, {self.resize} resize to {self.image_size}×{self.image_size}{colors}"


def decode_image(data: bytes, preprocessing: Preprocessing) -> Pixels:
    """Decode and preprocess an image file: uint8 [height, width, channel], 0..255.

    16-bit images become 8-bit, and transparency becomes white.

    Raises:
        UnreadableImageError: The file is damaged, or its format or range of values is unknown.
    """
    try:
        with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                size = f"{opened.width:,}×{opened.height:,} pixels"
                raise UnreadableImageError(f"it has {size}, more than {MAX_PIXELS:,}: reduce it")
            with _ONE_AT_A_TIME if opened.width * opened.height > LARGE_PIXELS else nullcontext():
                return _preprocessed(opened, preprocessing)
    except UnidentifiedImageError as error:
        raise UnreadableImageError(describe_content(data[:HEAD_BYTES]) or "unknown image format") from error
    except UnreadableImageError:
        raise
    except Exception as error:  # Decoders of damaged files raise almost anything.
        raise UnreadableImageError(str(error) or type(error).__name__) from error


def _preprocessed(opened: Image.Image, preprocessing: Preprocessing) -> Pixels:
    upright = ImageOps.exif_transpose(opened) if preprocessing.upright else opened
    image = _opaque(_eight_bit(upright)).convert("RGB" if preprocessing.channels == 3 else "L")
    if preprocessing.image_size is None:
        return np.asarray(image).reshape(image.height, image.width, preprocessing.channels)
    return np.stack([_resized(band, preprocessing, preprocessing.image_size) for band in image.split()], axis=-1)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grayscale to 8 bits (65535 becomes 255); Pillow would clip it at 255."""
    if image.mode == "F":
        raise UnreadableImageError("it has floating-point pixels of unknown range")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise UnreadableImageError("it has 32-bit pixels of unknown range")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    """Composite over white, since the color stored under transparent pixels is arbitrary."""
    if not image.has_transparency_data:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))


def _resized(band: Image.Image, preprocessing: Preprocessing, size: int) -> NDArray[np.uint8]:
    """Crop and resize one channel in floating point: on bytes, Pillow would round twice."""
    box = (0, 0, *band.size)
    if preprocessing.crop is Crop.CENTER:  # With odd margins as in the paper's published code.
        side = min(band.size)
        left, top = (length // 2 - side // 2 for length in band.size)
        box = (left, top, left + side, top + side)
    square = band.convert("F").crop(box)  # Cropped first: a filter must not read beyond the square.
    if preprocessing.resize is Resize.AREA_COVERAGE:
        resized = _covered_means(np.asarray(square, np.float64), size)
    else:
        resized = np.asarray(square.resize((size, size), _FILTERS[preprocessing.resize]), np.float64)
    return np.rint(resized).clip(0, 255).astype(np.uint8)


def _covered_means(pixels: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """The mean over the area of each output pixel: [height, width] to [size, size]."""
    down, right = (_coverage(length, size) for length in pixels.shape)
    return down @ pixels @ right.T


def _coverage(length: int, size: int) -> NDArray[np.float64]:
    """The share of output pixel i, [i, i + 1)·length/size, that input pixel j covers: [size, length], rows sum to 1."""
    edges = np.arange(size + 1) * (length / size)
    pixels = np.arange(length)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    shares: NDArray[np.float64] = covered.clip(min=0) * (size / length)
    return shares
