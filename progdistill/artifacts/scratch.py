"""Folders of files in the making."""

from contextlib import suppress
from datetime import datetime
from pathlib import Path


def sweep_folder(folder: Path, before: datetime) -> int:
    """Remove files last changed before that time; return how many."""
    removed = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < before.timestamp():
                path.unlink()
                removed += 1
    return removed
