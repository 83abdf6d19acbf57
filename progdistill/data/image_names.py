"""File names: which ones are images, and how to print those that are not valid UTF-8."""

import os
from typing import Final

IMAGE_SUFFIXES: Final = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def is_image_name(name: str) -> bool:
    """Whether a file name (without folders) has an image suffix and is not hidden."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")


def name_bytes(name: str) -> bytes:
    """Return the bytes of a file name as the file system stores them."""
    return name.encode("utf-8", "surrogateescape")


def readable_name(name: str) -> str:
    """Return a file name as valid text, in which bytes that are not UTF-8 appear as `\\xff`."""
    return name_bytes(name).decode("utf-8", "backslashreplace")
