"""A store in a local or mounted folder: temporary file, fsync, then an exclusive link or a rename."""

import errno
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from progdistill.errors import LostInvariantError, TransientError, UsageError
from progdistill.store.base import StoredObject, Versioned, checked_key, is_key
from progdistill.store.digest import FileDigest, digest_of_descriptor, digest_of_file, require_digest
from progdistill.store.failpoints import failpoint
from progdistill.store.files import explained, open_regular, sweep_folder
from progdistill.store.proof import prove

SCRATCH: Final = ".scratch"
LOCK: Final = ".lock"

_PLACE_ATTEMPTS: Final = 20


def _mode_of_new_files() -> int:
    # The umask can only be read by setting it.
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask


_FILE_MODE: Final = _mode_of_new_files()
"""Read once, before other threads may create files."""


class LocalStore:
    """A `Store` of files: an object's name is its key, under `folder`; names with a leading dot are the store's own."""

    reuse_period: Final = timedelta(0)

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()
        self.uri = str(self.folder)

    def read(self, key: str) -> bytes | None:
        path = self._path(key)
        with self._explained("read", key):
            try:
                descriptor = open_regular(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            with open(descriptor, "rb") as file:
                return file.read()

    def read_versioned(self, key: str) -> Versioned | None:
        """The version is the SHA-256 of the bytes."""
        data = self.read(key)
        return None if data is None else Versioned(data, hashlib.sha256(data).hexdigest())

    def write(self, key: str, data: bytes) -> None:
        with self._explained("write", key), self._staged(data) as staged:
            self._place(self._path(key), lambda path: os.replace(staged, path))
            failpoint("object.published")

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """A hard link fails if the name exists, whatever the file system."""
        if self.read(key) is not None:
            return False
        with self._explained("write", key), self._staged(data) as staged:
            try:
                self._place(self._path(key), lambda path: os.link(staged, path))
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno in (errno.EPERM, errno.ENOTSUP):
                    raise UsageError(
                        f"the file system of store {self.uri} has no hard links ({error.strerror}), which a store"
                        " needs: choose another --store"
                    ) from error
                raise
            failpoint("object.published")
        return True

    def compare_and_swap(self, key: str, data: bytes, version: str) -> bool:
        """Under a lock on the store."""
        with self._locked():
            current = self.read_versioned(key)
            if current is None or current.version != version:
                return False
            self.write(key, data)
            return True

    def list(self, prefix: str) -> Iterator[StoredObject]:
        parent = prefix.rpartition("/")[0]
        if parent and not is_key(parent):
            return  # No key starts like that, and the folder may lie outside the store.
        with self._explained("list", prefix or "objects"):
            found = self._keys_under(self._path(parent) if parent else self.folder)
            keys = sorted(key for key in found if key.startswith(prefix) and is_key(key))
        for key in keys:
            with suppress(FileNotFoundError):  # Removed since the walk.
                facts = (self.folder / key).lstat()
                yield StoredObject(key, facts.st_size, datetime.fromtimestamp(facts.st_mtime, UTC))

    def delete(self, key: str) -> None:
        """Folders that it leaves empty go too."""
        path = self._path(key)
        with self._explained("remove", key):
            try:
                path.unlink()
            except FileNotFoundError:
                return
        with suppress(OSError):
            for folder in path.parents[: len(Path(key).parents) - 1]:
                folder.rmdir()

    def upload(self, path: Path, key_for: Callable[[str], str], *, consume: bool = False) -> FileDigest:
        """Replacing an object that is named by its digest repairs it if it is damaged."""
        with self._explained("store", path.name):
            staged = self.scratch() / uuid.uuid4().hex
            try:
                digest = _synced_digest(staged) if consume and _moved(path, staged) else _copy(path, staged)
                self._place(self._path(key_for(digest.sha256)), lambda final: os.replace(staged, final))
                failpoint("file.published")
            except BaseException:
                if consume and staged.exists() and not path.exists():
                    os.replace(staged, path)  # It stays where it was.
                raise
            finally:
                staged.unlink(missing_ok=True)
            if consume:
                path.unlink(missing_ok=True)
        return digest

    def download(self, key: str, expected: FileDigest) -> Path:
        """The store's own file is handed out."""
        path = self._path(key)
        with self._explained("read", key):
            try:
                found = digest_of_file(path)
            except FileNotFoundError as error:
                raise LostInvariantError(f"{self.uri}/{key} is missing from the store") from error
        require_digest(found, expected, str(path))
        return path

    def verify(self, key: str, expected: FileDigest) -> None:
        self.download(key, expected)

    def scratch(self) -> Path:
        """On the store's own file system, so that a file can be renamed into place."""
        folder = self.folder / SCRATCH
        with self._explained("write", SCRATCH):
            _refuse_link(folder)
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def check_writable(self) -> None:
        prove(self)

    def free_bytes(self) -> int | None:
        folder = self.folder
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def sweep(self, before: datetime) -> int:
        return sweep_folder(self.scratch(), before)

    def now(self) -> datetime:
        """The clock of the file server, read off a file just written."""
        with self._explained("write", SCRATCH):
            probe = self.scratch() / uuid.uuid4().hex
            probe.write_bytes(b"clock")
            stamp = probe.stat().st_mtime
            probe.unlink()
        return datetime.fromtimestamp(stamp, UTC)

    def _path(self, key: str) -> Path:
        """Where an object is; LostInvariantError where a folder on the way is a link, which may lead outside."""
        path = self.folder / checked_key(key)
        for folder in path.parents[: key.count("/")]:
            _refuse_link(folder)
        return path

    def _keys_under(self, folder: Path) -> Iterator[str]:
        for parent, folders, names in os.walk(folder, onerror=_raise_unless_gone):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                if not name.startswith("."):
                    yield Path(parent, name).relative_to(self.folder).as_posix()

    def _make_folder(self, folder: Path) -> None:
        """Create a folder and make every new name on the way to it durable."""
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir()
        _sync_folder(folder.parent)

    @contextmanager
    def _staged(self, data: bytes) -> Iterator[Path]:
        """Give a temporary file whose contents are on disk."""
        staged = self.scratch() / uuid.uuid4().hex
        try:
            with open(staged, "xb") as file:
                file.write(data)
                file.flush()
                failpoint("object.written")
                os.fsync(file.fileno())
            failpoint("object.synced")
            yield staged
        finally:
            staged.unlink(missing_ok=True)

    def _place(self, path: Path, name_it: Callable[[Path], None]) -> None:
        """Give a staged file its name, durably. A concurrent `delete` may remove its folder: try again."""
        for attempts_left in reversed(range(_PLACE_ATTEMPTS)):
            try:
                self._make_folder(path.parent)
                name_it(path)
                break
            except FileNotFoundError:
                if not attempts_left:
                    raise
        with suppress(FileNotFoundError):  # Removed since.
            _sync_folder(path.parent)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._explained("lock", LOCK):
            self._make_folder(self.folder)
            lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            finally:
                os.close(lock)

    @contextmanager
    def _explained(self, action: str, name: str) -> Iterator[None]:
        """Turn the operating system's errors into ours."""
        cause = f"cannot {action} {name} in store {self.uri}"
        full = "free some space (`progdistill checkpoints gc`) or choose another --store"
        try:
            with explained(cause, full, "fix its permissions or choose another --store"):
                yield
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                what = "symbolic link" if error.errno == errno.ELOOP else "socket"
                raise LostInvariantError(f"{cause}: it is a {what}, and a store holds none; remove it") from error
            raise TransientError(f"{cause}: {error.strerror}") from error


def _refuse_link(folder: Path) -> None:
    if os.path.islink(folder):
        raise LostInvariantError(f"{folder} is a symbolic link, and a store holds none: put the folder in its place")


def _raise_unless_gone(error: OSError) -> None:
    """A folder that cannot be read must not look empty: garbage collection would act on that."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy(source: Path, target: Path) -> FileDigest:
    """Copy to a new file, which is on disk on return, and hash what is copied."""
    with open(source, "rb") as reader, open(target, "xb") as writer:
        size_bytes = os.fstat(reader.fileno()).st_size
        failpoint("file.copying")
        digest = digest_of_descriptor(reader.fileno(), copy_to=writer.fileno())
        if {os.fstat(file.fileno()).st_size for file in (reader, writer)} != {size_bytes}:
            raise LostInvariantError(f"{source} changed its length while it was copied")
        failpoint("file.copied")
        os.fsync(writer.fileno())
    failpoint("file.synced")
    return digest


def _moved(source: Path, target: Path) -> bool:
    """Rename a file; False where that cannot be done between file systems."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno == errno.EXDEV:
            return False
        raise
    target.chmod(_FILE_MODE)  # safetensors makes its files private.
    os.utime(target)  # Its age counts from now, for garbage collection.
    return True


def _synced_digest(path: Path) -> FileDigest:
    """Digest of a file that is on disk on return; the disk and the cores work at the same time."""
    with open(path, "rb") as file, ThreadPoolExecutor(1) as pool:
        on_disk = pool.submit(os.fsync, file.fileno())
        digest = digest_of_descriptor(file.fileno())
        on_disk.result()
    failpoint("file.synced")
    return digest
