"""The local cache of remote files: shared by processes and users, and bounded."""

import os
import time
from pathlib import Path

import pytest

from progdistill.data.shard_cache import default_shard_cache
from progdistill.errors import UsageError
from progdistill.store.cache import RECENT_SECONDS, FileCache, default_cache
from progdistill.store.digest import FileDigest, digest_of_file
from progdistill.store.open import open_store
from tests.store.s3_server import ENVIRONMENT


def adopted(cache: FileCache, content: bytes, seconds_ago: float = 0) -> FileDigest:
    """Put a file into the cache that was last used so long ago."""
    staged = cache.stage()
    staged.write_bytes(content)
    digest = digest_of_file(staged)
    path = cache.adopt(staged, digest)
    os.utime(path, times=(time.time() - seconds_ago,) * 2)
    return digest


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, limit_bytes=20)
    old, older = (
        adopted(cache, content, RECENT_SECONDS * age) for content, age in ((b"a" * 10, 2), (b"b" * 10, 3))
    )
    young = adopted(cache, b"c" * 10)
    assert [cache.find(digest) is not None for digest in (older, old, young)] == [False, True, True]


def test_files_that_others_trim_meanwhile_are_no_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FileCache(tmp_path, limit_bytes=0)
    adopted(cache, b"old", 2 * RECENT_SECONDS)
    glob = Path.glob

    def with_one_gone(self: Path, pattern: str) -> list[Path]:
        return [*glob(self, pattern), self / "ab" / "gone"]

    monkeypatch.setattr(Path, "glob", with_one_gone)
    young = adopted(cache, b"young")
    assert cache.find(young) is not None
    assert len([path for path in (tmp_path / "files").rglob("*") if path.is_file()]) == 1


def test_another_users_copy_is_as_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FileCache(tmp_path, limit_bytes=10)
    digest = adopted(cache, b"a")

    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refused)
    assert cache.find(digest) is not None


def test_less_than_a_gibibyte_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROGDISTILL_CACHE", str(tmp_path))
    monkeypatch.setenv("PROGDISTILL_CACHE_GIB", "1e-8")
    cache = default_cache()
    old = adopted(cache, b"a" * 10, 2 * RECENT_SECONDS)
    adopted(cache, b"b" * 10)
    assert cache.find(old) is None


def test_a_user_without_a_home_is_told_to_name_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number without an entry, as which a container may run."""

    def no_entry(_: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", no_entry)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for cache in (default_cache, default_shard_cache):
        with pytest.raises(UsageError, match="no home folder.*set PROGDISTILL_CACHE"):
            cache()
    monkeypatch.setenv("PROGDISTILL_CACHE", str(tmp_path))
    adopted(default_cache(), b"a")
    assert (tmp_path / "files").exists()


@pytest.mark.parametrize("value", ["many", "-1", "nan", "inf", ""])
def test_a_size_that_is_none_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROGDISTILL_CACHE_GIB", value)
    with pytest.raises(UsageError, match="PROGDISTILL_CACHE_GIB is '.*': give a number of GiB"):
        default_cache()


@pytest.mark.parametrize("value", ["many", "0", "-1", "1.5", ""])
def test_a_number_of_attempts_that_is_none_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, fact in {**ENVIRONMENT, "AWS_MAX_ATTEMPTS": value}.items():
        monkeypatch.setenv(name, fact)
    with pytest.raises(UsageError, match="AWS_MAX_ATTEMPTS is '.*': give a whole number from 1"):
        open_store("s3://bucket/prefix")
