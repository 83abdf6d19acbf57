"""Published checksums and counts, and the comparison of a user's files with them."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from progdistill.errors import UsageError
from progdistill.progress import Progress

ANYWAY: Final = "add --unverified to prepare it as it is"

_PIECE_BYTES: Final = 2**22


class PublishedFile(NamedTuple):
    """A file name and the MD5 that the publisher, or a library that downloads the file, states."""

    name: str
    md5: str


def verify_published(files: Iterable[tuple[Path, PublishedFile]]) -> None:
    """Compare files with their published MD5. Raises UsageError for the first that differs."""
    pairs = list(files)
    total = sum(path.stat().st_size for path, _ in pairs)
    with Progress("verifying the published files", total=total, unit="bytes") as progress:
        for path, published in pairs:
            found = _md5(path, progress)
            if found != published.md5:
                raise UsageError(
                    f"{path} is not the published {published.name}: its MD5 is {found}, expected"
                    f" {published.md5}. Download it again, or {ANYWAY}"
                )


def check_counts(location: Path, found: dict[str, int], published: dict[str, int]) -> None:
    """Compare the number of images in each split with the published one. Raises UsageError if they differ."""
    for split, count in found.items():
        if count != (expected := published.get(split, 0)):
            raise UsageError(
                f"{location}: split {split} has {count:,} images, published are {expected:,}."
                f" Get the published files, or {ANYWAY}"
            )


def _md5(path: Path, progress: Progress) -> str:
    hasher = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            hasher.update(piece)
            progress.advance(len(piece))
    return hasher.hexdigest()
