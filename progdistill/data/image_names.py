"""Names of files: which are images, and what to call those whose names are no text."""

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


def name_bytes(name: str) -> bytes:
    """A file's name as it is stored, UTF-8 or not."""
    return name.encode("utf-8", "surrogateescape")


def readable_name(name: str) -> str:
    """A file's name as text that can be stored: what is not UTF-8 in it is spelt out, such as `\\xff`."""
    return name_bytes(name).decode("utf-8", "backslashreplace")
