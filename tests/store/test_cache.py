"""The local cache of remote files: shared by processes and users, verified, and limited in size."""

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from progdistill.errors import LostInvariantError, UsageError
from progdistill.store.cache import RECENT_SECONDS, BlobCache, file_cache, shard_cache
from progdistill.store.digest import PART_BYTES, FileDigest, HashingWriter, digest_of_file
from progdistill.store.open import open_store
from tests.store.s3_server import ENVIRONMENT


def refused(_: object) -> None:
    raise AssertionError("the cache has no copy")


def cached(cache: BlobCache, content: bytes, seconds_ago: float = 0) -> FileDigest:
    """Put a file into the cache that was last used so long ago."""
    digest = FileDigest(hashlib.sha256(content).hexdigest(), len(content))
    path = cache.path(digest, lambda writer: writer.write(content), "file")
    os.utime(path, times=(time.time() - seconds_ago,) * 2)
    return digest


def has(cache: BlobCache, digest: FileDigest) -> bool:
    """Whether the cache hands out a copy without fetching it."""
    try:
        cache.path(digest, refused, "file")
    except AssertionError:
        return False
    return True


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path, 20, recent_seconds=RECENT_SECONDS)
    old, older = (cached(cache, content, RECENT_SECONDS * age) for content, age in ((b"a" * 10, 2), (b"b" * 10, 3)))
    young = cached(cache, b"c" * 10)
    assert [has(cache, digest) for digest in (older, old, young)] == [False, True, True]


def test_files_that_others_trim_meanwhile_are_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = BlobCache(tmp_path, 0, recent_seconds=RECENT_SECONDS)
    cached(cache, b"old", 2 * RECENT_SECONDS)
    glob = Path.glob

    def with_one_gone(self: Path, pattern: str) -> list[Path]:
        return [*glob(self, pattern), self / "ab" / "gone"]

    monkeypatch.setattr(Path, "glob", with_one_gone)
    young = cached(cache, b"young")
    assert has(cache, young)
    assert len(list(glob(tmp_path, "??/[!.]*"))) == 1


def test_another_users_copy_is_as_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = BlobCache(tmp_path, 10, recent_seconds=RECENT_SECONDS)
    digest = cached(cache, b"a")

    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refused)
    assert has(cache, digest)


def test_less_than_a_gibibyte_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROGDISTILL_CACHE", str(tmp_path))
    monkeypatch.setenv("PROGDISTILL_CACHE_GIB", "1e-8")
    cache = file_cache()
    old = cached(cache, b"a" * 10, 2 * RECENT_SECONDS)
    cached(cache, b"b" * 10)
    assert not has(cache, old)


def test_a_user_without_a_home_is_told_to_name_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number without an entry, as which a container may run."""

    def no_entry(_: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", no_entry)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for cache in (file_cache, shard_cache):
        with pytest.raises(UsageError, match="no home folder.*set PROGDISTILL_CACHE"):
            cache()
    monkeypatch.setenv("PROGDISTILL_CACHE", str(tmp_path))
    cached(file_cache(), b"a")
    assert (tmp_path / "files").exists()


def test_of_many_readers_one_fetches(tmp_path: Path) -> None:
    fetched = []

    def fetch(writer: HashingWriter) -> None:
        fetched.append(writer)
        time.sleep(0.05)
        writer.write(b"a")

    digest = FileDigest(hashlib.sha256(b"a").hexdigest(), 1)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: BlobCache(tmp_path, 10).path(digest, fetch, "file"), range(4)))
    assert len(fetched) == 1 and len(set(paths)) == 1


def test_what_comes_damaged_twice_is_never_handed_out(tmp_path: Path) -> None:
    digest = FileDigest(hashlib.sha256(b"a").hexdigest(), 1)
    with pytest.raises(LostInvariantError, match="s3://b/k is damaged"):
        BlobCache(tmp_path, 10).open(digest, lambda writer: writer.write(b"b"), "s3://b/k")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]


def test_parts_in_any_order_and_sent_again_give_the_digest_of_the_file(tmp_path: Path) -> None:
    with open(tmp_path / "file", "xb", buffering=0) as file:
        writer = HashingWriter(file)
        for offset, data in ((PART_BYTES, b"b"), (0, b"broken"), (0, b"a" * 10), (10, b"a" * (PART_BYTES - 10))):
            writer.seek(offset)
            writer.write(data)
        assert writer.digest() == digest_of_file(tmp_path / "file")
        writer.seek(PART_BYTES + 2)
        with pytest.raises(ValueError, match="of which 1 bytes"):
            writer.write(b"c")


@pytest.mark.parametrize("value", ["many", "-1", "nan", "inf", ""])
@pytest.mark.parametrize(
    ("variable", "cache"), [("PROGDISTILL_CACHE_GIB", file_cache), ("PROGDISTILL_DATA_CACHE_GIB", shard_cache)]
)
def test_a_size_that_is_not_a_number_is_refused(
    variable: str, cache: Callable[[], BlobCache], value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=f"{variable} is '.*': give a number of GiB"):
        cache()


@pytest.mark.parametrize("value", ["many", "0", "-1", "1.5", ""])
def test_a_number_of_attempts_that_is_none_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, fact in {**ENVIRONMENT, "AWS_MAX_ATTEMPTS": value}.items():
        monkeypatch.setenv(name, fact)
    with pytest.raises(UsageError, match="AWS_MAX_ATTEMPTS is '.*': give a whole number from 1"):
        open_store("s3://bucket/prefix")
