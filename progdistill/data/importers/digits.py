"""The digits of scikit-learn: 1,797 handwritten digits of 8×8 pixels, real data without a download.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, the test
set. Each line of `digits.csv.gz` has 64 pixels 0..16 row by row, then the digit.
"""

import gzip
import hashlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from progdistill.data.source import Source, SourceFacts, SourceImage
from progdistill.errors import LostInvariantError, UsageError

PUBLISHED_SHA256: Final = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"

TEST_EVERY: Final = 5
"""Every fifth image, starting with the first, belongs to the test split."""


class DigitsSource(Source):
    """Splits train (1,437 images) and test (360). Pixels 0..16 are scaled to 0..255 and rounded."""

    def __init__(self) -> None:
        """Read the table. Raises UsageError without scikit-learn, LostInvariantError for another table."""
        table = _table()
        pixels = np.round(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
        test = np.arange(len(table)) % TEST_EVERY == 0
        self._splits = {"train": (pixels[~test], table[~test, 64]), "test": (pixels[test], table[test, 64])}
        self.facts = SourceFacts(
            importer="digits",
            location="scikit-learn",
            description="pixels 0..16 scaled to 0..255",
            identity={"sha256": PUBLISHED_SHA256, "test_every": TEST_EVERY},
            channels=1,
            image_size=8,
            class_names=tuple("0123456789"),
            horizontal_flip_safe=False,
            splits={split: len(labels) for split, (_, labels) in self._splits.items()},
        )

    def read(self, split: str, start: int = 0) -> Iterator[SourceImage]:
        pixels, labels = self._splits[split]
        for index in range(start, len(labels)):
            yield SourceImage(f"{split}/{index}", int(labels[index]), pixels[index])


def _table() -> NDArray[np.int64]:
    """Read the published table, int64 [1797, 65], from the package's file: its import takes seconds."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise UsageError("the digits dataset comes with scikit-learn: pip install scikit-learn")
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    data = path.read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != PUBLISHED_SHA256:
        raise LostInvariantError(f"{path} has SHA-256 {found}, expected {PUBLISHED_SHA256}")
    text = gzip.decompress(data).replace(b"\n", b",").rstrip(b",")
    return np.array(text.split(b","), np.int64).reshape(-1, 65)
