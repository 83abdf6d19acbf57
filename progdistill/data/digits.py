"""The digits dataset: 1797 handwritten digits of 8×8 pixels that come inside scikit-learn."""

from pathlib import Path

import numpy as np

from progdistill.data.stored import Description, Labels, Manifest, Pixels, publish

TEST_EVERY = 5
INK_LEVELS = 16

DESCRIPTION = Description(
    name="digits",
    channels=1,
    image_size=8,
    num_classes=10,
    class_names=tuple("0123456789"),
    # A mirrored 2 is no digit.
    horizontal_flip_safe=False,
)


def prepare_digits(folder: Path) -> Manifest:
    """Store the digits in `folder`: the first of every five images is the `test` split, the rest `train`."""
    pixels, labels = embedded_digits()
    test = np.arange(len(labels)) % TEST_EVERY == 0
    return publish(
        folder, DESCRIPTION, {"train": (pixels[~test], labels[~test]), "test": (pixels[test], labels[test])}
    )


def embedded_digits() -> tuple[Pixels, Labels]:
    """All images, uint8 [1797, 8, 8, 1] in 0..255 (ink 0..16 scaled by 255/16), and labels int64 [1797]."""
    from sklearn.datasets import load_digits

    ink, labels = load_digits(return_X_y=True)
    pixels = np.rint(ink * (255 / INK_LEVELS)).astype(np.uint8)
    return pixels.reshape(-1, 8, 8, 1), labels.astype(np.int64)
