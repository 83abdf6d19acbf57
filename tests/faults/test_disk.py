"""Full and read-only disks: one message, exit status 2, no partly written files."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from progdistill.errors import UsageError
from progdistill.registry.checkpoint import fetch_weights, publish_checkpoint, verify_weights
from progdistill.store.layout import blob_key
from progdistill.store.open import open_store
from tests.faults.publisher import REPOSITORY, publish
from tests.registry.samples import description, provenance, publish_base, weights_file


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no right to mount a small file system: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def assert_refused(folder: Path, status: int, message: str) -> None:
    """The publisher said what is wrong and what to do, and left no checkpoint and no leftovers."""
    assert status == 2, message
    assert "free some space" in message
    assert list(open_store(str(folder)).list("checkpoints/")) == []
    assert os.listdir(folder / ".scratch") == []


def test_a_full_disk_is_a_clear_refusal(small_disk: Path, tmp_path: Path) -> None:
    folder = small_disk / "store"
    status, _, message = publish(str(folder), weights_file(tmp_path, megabytes=2))
    assert_refused(folder, status, message)
    assert publish(str(folder), weights_file(tmp_path, megabytes=0.1))[0] == 0


def test_a_full_disk_under_the_cache_is_a_clear_refusal(
    small_disk: Path, s3_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(s3_uri)
    weights = weights_file(tmp_path, megabytes=2)
    published = publish_checkpoint(store, weights, description(), provenance())
    monkeypatch.setenv("PROGDISTILL_CACHE", str(small_disk))
    small = open_store(s3_uri)
    for read in (fetch_weights, verify_weights):
        with pytest.raises(UsageError, match="free some space there, or set PROGDISTILL_CACHE"):
            read(small, published)
    assert not [path for path in small_disk.rglob("*") if path.is_file() and path.name != ".lock"]
    monkeypatch.setenv("PROGDISTILL_CACHE", str(weights))
    with pytest.raises(UsageError, match="permissions, or set PROGDISTILL_CACHE"):
        fetch_weights(open_store(s3_uri), published)


def test_a_limit_on_file_sizes_is_a_clear_refusal(tmp_path: Path) -> None:
    folder, weights = tmp_path / "store", weights_file(tmp_path, megabytes=2)
    process = subprocess.run(
        [sys.executable, "-m", "tests.faults.publisher", str(folder), str(weights), "here"],
        cwd=REPOSITORY,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert_refused(folder, process.returncode, process.stderr)


def test_a_read_only_store_can_be_read_and_refuses_to_be_written(small_disk: Path, tmp_path: Path) -> None:
    store = open_store(str(small_disk / "store"))
    published = publish_base(store, tmp_path)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UsageError, match="choose another --store"):
        store.check_writable()
    status, _, message = publish(store.uri, weights_file(tmp_path, seed=2))
    assert (status, "choose another --store" in message) == (2, True)
    assert [item.key.split("/")[1] for item in store.list("checkpoints/")] == [published.id]


def test_a_file_that_could_not_be_moved_into_a_store_stays_where_it_was(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    weights = weights_file(store.scratch())
    (tmp_path / "store" / "blobs").write_text("in the way")
    with pytest.raises(UsageError, match="choose another --store"):
        store.upload(weights, blob_key, consume=True)
    assert weights.read_bytes() == weights_file(tmp_path).read_bytes()


def test_a_path_that_is_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="choose another --store"):
        open_store(str(tmp_path / "file")).check_writable()
