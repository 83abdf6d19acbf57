"""The temporary folder of a run, which holds those of all its processes, and is removed even if the run was killed."""

import fcntl
import getpass
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "progdistill-run-"
_LOCK = "lock"
_DRAFT = "lock.part"


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make the folder, and make it that of this process and its children ($TMPDIR) in the body.

    A killed process cannot remove its folder: the next run does. A lock, which ends with its process, shows which
    folders are in use.
    """
    outside = Path(tempfile.gettempdir())
    _remove_abandoned(outside)
    with suppress(KeyError, OSError):  # a user without a name; torch keeps what it has compiled for later runs
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(outside / f"torchinductor_{getpass.getuser()}"))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    before = os.environ.get("TMPDIR")
    with open(folder / _DRAFT, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(folder / _DRAFT, folder / _LOCK)  # a run that starts meanwhile would find it free, and remove all
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        try:
            yield folder
        finally:
            tempfile.tempdir = None
            del os.environ["TMPDIR"]
            if before is not None:
                os.environ["TMPDIR"] = before
            shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(place: Path) -> None:
    for lock in place.glob(f"{PREFIX}*/{_LOCK}"):
        with suppress(OSError):  # in use, or another user's
            if lock.parent.is_symlink() or lock.is_symlink():
                continue
            with open(lock) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
