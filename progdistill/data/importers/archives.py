"""Archives of files, read from front to back: tar, also compressed, and zip. Nothing is unpacked to disk.

What an archive declares (sizes, links, archives inside it) is never trusted: a file of it is read up to a limit that
the caller gives, and links are not followed.
"""

import bz2
import gzip
import io
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from progdistill.data.importers.common import explain_damage, head_of_source
from progdistill.data.importers.files import FoundFile, is_hidden
from progdistill.data.importers.unused import Unused
from progdistill.data.source import UnreadableImageError
from progdistill.errors import UsageError
from progdistill.escape import one_line

TAR_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

MAX_HEADER_BYTES: Final = 2**20
"""Of one header, with names and extensions."""

ERRORS: Final = (
    *(tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, zlib.error, lzma.LZMAError),
    *(ValueError, KeyError, IndexError, OverflowError, RecursionError, NotImplementedError, RuntimeError, MemoryError),
)
"""What reading a truncated, damaged or hostile archive raises."""

_PROBLEM: Final = "truncated, damaged or not such an archive"
_REMEDY: Final = "download it again, or unpack it and give the folder"


def is_tar_name(name: str) -> bool:
    """Whether a file name is that of a tar, perhaps compressed."""
    return name.lower().endswith(TAR_SUFFIXES)


def is_archive_name(name: str) -> bool:
    """Whether a file name is that of an archive that is read here."""
    return is_tar_name(name) or name.lower().endswith(".zip")


def archive_stem(name: str) -> str:
    """The name of an archive without its suffixes."""
    return re.sub(r"(\.tar(\.\w+)?|\.tgz|\.tbz2|\.txz|\.zip)$", "", name, flags=re.IGNORECASE)


def iterate_archive(path: Path, unused: Unused) -> Iterator[FoundFile]:
    """Yield the files of an archive in stored order; each can be read until the next one is asked for.

    Archives inside a tar are read as folders. Raises UsageError for a damaged archive.
    """
    with explain_damage(path, _PROBLEM, ERRORS, _REMEDY):
        is_zip = head_of_source(path).startswith((b"PK\3\4", b"PK\5\6"))
        files = _zipped(path, unused) if is_zip else _tarred(path, unused)
        for file in files:
            yield file._replace(read=partial(_explained, path, file.read))


def _explained(path: Path, read: Callable[[int], bytes], limit: int) -> bytes:
    with explain_damage(path, _PROBLEM, ERRORS, _REMEDY):
        return read(limit)


def _zipped(path: Path, unused: Unused) -> Iterator[FoundFile]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            folders, name = _split(info.filename)
            if _is_used(folders, name, unused) and not info.is_dir():
                yield FoundFile(folders, name, info.file_size, str(info.date_time), partial(_unzip, archive, info))


def _unzip(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    if info.flag_bits & 1:
        raise UnreadableImageError("it is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        raise UnreadableImageError(f"it is compressed by method {info.compress_type}: unpack it")
    with archive.open(info) as file:
        return file.read(limit)


class _Window(io.RawIOBase):
    """A tar in a file, of which headers cannot ask for more than `limit` bytes at a time, nor for all of it."""

    def __init__(self, file: IO[bytes], start: int = 0, size: int | None = None) -> None:
        self.file, self.start, self._size, self._position = file, start, size, 0
        self.limit = MAX_HEADER_BYTES

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= self.limit:
            raise tarfile.ReadError(f"a header asks for {size} bytes")
        if self._size is not None:
            size = max(0, min(size, self._size - self._position))
        self.file.seek(self.start + self._position)
        data = self.file.read(size)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset < 0:
            raise tarfile.ReadError(f"a header points to byte {offset}")
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position


_COMPRESSED: Final[tuple[tuple[bytes, Callable[[Path], Any]], ...]] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\0", lzma.open),
)


def open_tar(path: Path) -> IO[bytes]:
    """Open a tar, uncompressed."""
    with open(path, "rb") as file:
        head = file.read(8)
    opener = next((opener for magic, opener in _COMPRESSED if head.startswith(magic)), None)
    opened: IO[bytes] = (opener or _uncompressed)(path)
    return opened


def _uncompressed(path: Path) -> IO[bytes]:
    return open(path, "rb")


def _tarred(path: Path, unused: Unused) -> Iterator[FoundFile]:
    with open_tar(path) as file:
        yield from _members(_Window(file), (), unused)


def _members(window: _Window, inside: tuple[str, ...], unused: Unused) -> Iterator[FoundFile]:
    with tarfile.open(fileobj=window, mode="r:") as archive:
        for member in iterate_members(archive):
            folders, name = _split(member.name)
            where = "/".join((*inside, *folders, name))
            if member.isdir() or not _is_used(folders, name, unused, inside):
                continue
            if member.issym() or member.islnk():
                unused.add("link in an archive", where)
            elif not member.isfile():
                unused.add("not a file", where)
            elif name.lower().endswith(".tar") and not inside:
                inner = _Window(window.file, window.start + member.offset_data, member.size)
                yield from _members(inner, (*folders, archive_stem(name)), unused)
            else:
                read = partial(_read_member, archive, member, window)
                yield FoundFile((*inside, *folders), name, member.size, str(member.mtime), read)
        _check_end(window, archive, "/".join(inside), unused)


def read_files(path: Path, names: Collection[str], limit: int) -> dict[str, bytes]:
    """Read some files of a tar, by their paths in it; those that it does not have are left out.

    Raises UsageError for a damaged archive, or a file of more than `limit` bytes.
    """
    found: dict[str, bytes] = {}
    for file in iterate_archive(path, Unused()):
        if file.path in names:
            if file.size > limit:
                raise UsageError(f"{path}: {file.path} has {file.size:,} bytes, expected at most {limit:,}: {_REMEDY}")
            found[file.path] = file.read(limit)
            if len(found) == len(names):
                break
    return found


def iterate_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield an archive's members in stored order, without keeping them. Raises ReadError for a header that lies."""
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # Or a million headers stay in memory.
        if member.size < 0 or archive.offset <= member.offset:
            raise tarfile.ReadError(f"{one_line(member.name)} has {member.size} bytes")
        yield member


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo, window: _Window, limit: int) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    window.limit = max(limit, MAX_HEADER_BYTES)
    try:
        return file.read(min(limit, member.size))
    finally:
        window.limit = MAX_HEADER_BYTES


def _check_end(window: _Window, archive: tarfile.TarFile, where: str, unused: Unused) -> None:
    """Raise ReadError where something follows that is no end mark: tarfile takes a damaged header for one."""
    end = archive.offset
    window.seek(end)
    rest = window.read(MAX_HEADER_BYTES)
    if rest.strip(b"\0"):
        raise tarfile.ReadError(f"what follows byte {end:,} is no header")
    if len(rest) < tarfile.BLOCKSIZE:
        unused.add("an archive without an end mark, perhaps truncated", where or "itself")


def _split(name: str) -> tuple[tuple[str, ...], str]:
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
    return tuple(parts[:-1]), parts[-1] if parts else ""


def _is_used(folders: tuple[str, ...], name: str, unused: Unused, inside: tuple[str, ...] = ()) -> bool:
    for depth, part in enumerate((*folders, name)):
        if is_hidden(part):
            unused.add("hidden", "/".join((*inside, *folders, name)[: len(inside) + depth + 1]), once=True)
            return False
    return True
