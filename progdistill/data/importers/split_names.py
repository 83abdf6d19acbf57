"""Names of files and folders that mean a split."""

from typing import Final

SPLIT_NAMES: Final = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""From the name to the split as it is stored."""
