"""Verified local copies of files from remote stores, the least recently used removed first."""

import os
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Final

from progdistill.artifacts.digest import FileDigest, digest_of_file

RECENT_SECONDS: Final = 3600.0
"""What was handed out within this time is never removed: its reader may not have opened it yet."""


class FileCache:
    """Files by digest under `folder`, at most `limit_bytes` of them (recent ones aside)."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes

    def find(self, digest: FileDigest) -> Path | None:
        """Return the intact copy, None when there is none; a damaged one is removed."""
        path = self._path(digest)
        try:
            if digest_of_file(path) == digest:
                os.utime(path)
                return path
        except FileNotFoundError:
            return None
        path.unlink(missing_ok=True)
        return None

    def adopt(self, staged: Path, digest: FileDigest) -> Path:
        """Move a verified file from `scratch()` into the cache."""
        path = self._path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.chmod(0o444)
        os.replace(staged, path)
        self._trim()
        return path

    def scratch(self) -> Path:
        """Return a folder on the cache's file system for files in the making."""
        folder = self._folder / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def stage(self) -> Path:
        """Return a fresh path in the scratch folder."""
        return self.scratch() / uuid.uuid4().hex

    def _path(self, digest: FileDigest) -> Path:
        return self._folder / "files" / digest.sha256[:2] / digest.sha256

    def _trim(self) -> None:
        files = [(path.stat(), path) for path in (self._folder / "files").glob("*/*")]
        excess = sum(facts.st_size for facts, _ in files) - self._limit_bytes
        for facts, path in sorted(files, key=lambda file: file[0].st_mtime):
            if excess <= 0 or time.time() - facts.st_mtime < RECENT_SECONDS:
                return
            with suppress(FileNotFoundError):
                path.unlink()
            excess -= facts.st_size


def default_cache() -> FileCache:
    """The cache in `PROGDISTILL_CACHE` (else the user's cache folder) of `PROGDISTILL_CACHE_GIB` (100)."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = os.environ.get("PROGDISTILL_CACHE") or Path(home) / "progdistill"
    return FileCache(Path(folder).absolute(), int(os.environ.get("PROGDISTILL_CACHE_GIB", "100")) * 2**30)
