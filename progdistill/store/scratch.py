"""Folders of files in the making."""

import shutil
from contextlib import suppress
from datetime import datetime
from pathlib import Path


def sweep_folder(folder: Path, before: datetime) -> int:
    """Remove files, and folders with all they hold, last changed before that time; return how many."""
    removed = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            changed = max(one.stat().st_mtime for one in (path, *path.rglob("*")))
            if changed >= before.timestamp():
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
            removed += 1
    return removed
