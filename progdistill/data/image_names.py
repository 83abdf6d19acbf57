"""Which files are images, by their names."""

import os
from typing import Final

IMAGE_SUFFIXES: Final = (
    ".bmp",
    ".gif",
    ".jpeg",
    ".jpg",
    ".pgm",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)


def is_image_name(name: str) -> bool:
    """Whether a file's name (no folders) says that it is an image; hidden files do not count."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")
