"""Sample images as PNG: a strip for the store, a grid for the eye. No torch."""

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
"""[count, height, width, channels], 1 or 3 channels."""


def encode_strip(images: Pixels) -> bytes:
    """Losslessly encode images as one PNG, one below the other; equal images give equal bytes."""
    count, height, width, channels = images.shape
    return encode_png(images.reshape(count * height, width, channels))


def decode_strip(png: bytes, count: int) -> Pixels:
    """Cut a strip back into its `count` images."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    return pixels.reshape(count, pixels.shape[0] // count, *pixels.shape[1:])


def encode_png(picture: Pixels) -> bytes:
    """Encode one picture of [height, width, channels]."""
    buffer = io.BytesIO()
    Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture).save(buffer, format="PNG")
    return buffer.getvalue()


def enlarge(image: Pixels, scale: int) -> Pixels:
    """One image [height, width, channels] at `scale` times its size, smoothly: coarse pixels hide shapes."""
    if scale == 1:
        return image
    height, width, channels = image.shape
    source = Image.fromarray(image[:, :, 0] if channels == 1 else image)
    resized = source.resize((width * scale, height * scale), Image.Resampling.BICUBIC)
    return np.asarray(resized).reshape(height * scale, width * scale, channels)


def grid(images: Pixels, columns: int | None = None, *, scale: int = 1, gap: int = 2) -> Pixels:
    """Lay images out row by row on white, each enlarged smoothly by `scale`, `gap` pixels apart.

    Without `columns` the grid is as square as it can be.
    """
    count, height, width, channels = images.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    cell_height, cell_width = height * scale + gap, width * scale + gap
    picture = np.full((rows * cell_height + gap, columns * cell_width + gap, channels), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = gap + index // columns * cell_height, gap + index % columns * cell_width
        picture[top : top + height * scale, left : left + width * scale] = enlarge(image, scale)
    return picture


def readable_scale(image_size: int, wanted_pixels: int = 48) -> int:
    """The whole factor at which an image is about `wanted_pixels` high, so that a person recognises it."""
    return max(1, round(wanted_pixels / image_size))
