"""The size of images that are taken as they are."""

from collections.abc import Iterable

from progdistill.data.source import SourceImage, UnreadableImageError
from progdistill.errors import UsageError


def native_size(images: Iterable[SourceImage], where: str) -> int:
    """Height and width of the first readable image; UsageError when it is no square or there is none."""
    for image in images:
        try:
            pixels = image.pixels() if callable(image.pixels) else image.pixels
        except UnreadableImageError:
            continue
        height, width = int(pixels.shape[0]), int(pixels.shape[1])
        if height != width:
            raise UsageError(f"{image.name} is {width}×{height}: choose a square with --image-size N")
        return height
    raise UsageError(f"{where} has no image that can be read")
