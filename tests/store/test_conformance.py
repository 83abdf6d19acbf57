"""The contract of stores, tested with all kinds."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Event

import boto3
import pytest

from progdistill.errors import LostInvariantError, UsageError
from progdistill.models_base import content_id
from progdistill.store.base import Store
from progdistill.store.digest import PART_BYTES, FileDigest, digest_of_file
from progdistill.store.documents import SEAL
from progdistill.store.layout import blob_key
from progdistill.store.open import open_store
from progdistill.store.s3 import S3Store


def test_what_is_written_is_read_back(store: Store) -> None:
    store.write("a/b", b"facts")
    assert store.read("a/b") == b"facts"


def test_an_absent_object_reads_as_none(store: Store) -> None:
    assert store.read("a/b") is None
    assert store.read_versioned("a/b") is None


def test_writing_again_replaces(store: Store) -> None:
    store.write("a", b"old")
    store.write("a", b"new")
    assert store.read("a") == b"new"


def test_put_if_absent_keeps_the_first(store: Store) -> None:
    assert store.put_if_absent("a", b"first")
    assert not store.put_if_absent("a", b"second")
    assert store.read("a") == b"first"


def test_of_many_racing_puts_exactly_one_wins(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: store.put_if_absent("a", b"%d" % number), range(16)))
    assert won.count(True) == 1
    assert store.read("a") == b"%d" % won.index(True)


def test_compare_and_swap_replaces_only_the_version_it_knows(store: Store) -> None:
    store.write("a", b"1")
    seen = store.read_versioned("a")
    assert seen is not None
    assert store.compare_and_swap("a", b"2", seen.version)
    assert not store.compare_and_swap("a", b"3", seen.version)
    assert store.read("a") == b"2"


def test_compare_and_swap_of_a_removed_object_fails(store: Store) -> None:
    store.write("a", b"1")
    seen = store.read_versioned("a")
    store.delete("a")
    assert seen is not None
    assert not store.compare_and_swap("a", b"2", seen.version)


def test_no_swap_is_lost_among_racing_ones(store: Store) -> None:
    store.write("count", b"0")

    def increment(_: int) -> None:
        while True:
            seen = store.read_versioned("count")
            assert seen is not None
            if store.compare_and_swap("count", b"%d" % (int(seen.data) + 1), seen.version):
                return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(increment, range(12)))
    assert store.read("count") == b"12"


def test_listing_gives_keys_in_order_with_sizes_and_times(store: Store) -> None:
    for key in ("b/2", "a/1", "b/1/x", "bb"):
        store.write(key, key.encode())
    assert [item.key for item in store.list("b/")] == ["b/1/x", "b/2"]
    assert [item.key for item in store.list("")] == ["a/1", "b/1/x", "b/2", "bb"]
    (found,) = store.list("a/")
    assert found.size_bytes == 3
    assert abs(store.now() - found.modified_at) < timedelta(minutes=5)


def test_names_that_are_no_keys_are_passed_over(store: Store) -> None:
    store.write("a/notes.json", b"1")
    put_foreign(store, "a/my notes.json")
    assert [item.key for item in store.list("")] == ["a/notes.json"]


def put_foreign(store: Store, name: str) -> None:
    """Put an object into a store past its own naming, as other programs do."""
    if isinstance(store, S3Store):
        bucket, _, prefix = store.uri.removeprefix("s3://").partition("/")
        boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=b"{}")
    elif store.uri.startswith("gs://"):
        from google.cloud import storage

        bucket, _, prefix = store.uri.removeprefix("gs://").partition("/")
        storage.Client().bucket(bucket).blob(f"{prefix}/{name}").upload_from_string(b"{}")
    else:
        Path(store.uri, name).write_bytes(b"{}")


def test_removing_twice_is_no_error(store: Store) -> None:
    store.write("a/b", b"1")
    store.delete("a/b")
    store.delete("a/b")
    assert list(store.list("")) == []


@pytest.mark.parametrize("key", ["../outside", "/etc/passwd", "a//b", "a/./b", "", ".scratch/x", "a\\b", "a/.."])
def test_keys_that_could_lead_outside_are_refused(store: Store, key: str) -> None:
    with pytest.raises(UsageError, match="cannot name an object"):
        store.write(key, b"1")


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1])
def test_files_of_one_and_more_parts_come_back_whole(store: Store, tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * (size // 256) + b"\x07" * (size % 256))
    digest = store.upload(path, blob_key)
    assert digest == digest_of_file(path)
    assert store.download(blob_key(digest.sha256), digest).read_bytes() == path.read_bytes()


def test_uploading_again_gives_the_same_object(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"weights")
    assert store.upload(path, blob_key) == store.upload(path, blob_key)
    assert len(list(store.list("blobs/"))) == 1


def test_a_consumed_file_is_gone_and_stored(store: Store) -> None:
    path = store.scratch() / "file"
    path.write_bytes(b"weights")
    digest = store.upload(path, blob_key, consume=True)
    assert not path.exists()
    assert store.download(blob_key(digest.sha256), digest).read_bytes() == b"weights"


def test_a_consumed_file_can_be_read_by_whoever_can_read_the_others(local_store: Store) -> None:
    path = local_store.scratch() / "file"
    path.write_bytes(b"weights")
    path.chmod(0o600)
    digest = local_store.upload(path, blob_key, consume=True)
    local_store.write("a", b"1")
    modes = {Path(local_store.uri, key).stat().st_mode for key in ("a", blob_key(digest.sha256))}
    assert len(modes) == 1


def test_no_write_fails_beside_removals_in_its_folder(local_store: Store) -> None:
    def remove(stop: Event) -> None:
        while not stop.is_set():
            local_store.delete("a/b/c/x")

    stop = Event()
    with ThreadPoolExecutor(2) as pool:
        removing = [pool.submit(remove, stop) for _ in range(2)]
        try:
            for number in range(50):
                local_store.write("a/b/c/x", b"%d" % number)
        finally:
            stop.set()
        assert all(one.result() is None for one in removing)


def test_a_missing_file_is_a_lost_invariant(store: Store) -> None:
    with pytest.raises(LostInvariantError, match="missing"):
        store.download(blob_key("0" * 64), FileDigest("0" * 64, 1))


def test_a_file_with_other_bytes_is_not_handed_out(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"weights")
    digest = store.upload(path, blob_key)
    with pytest.raises(LostInvariantError, match="damaged"):
        store.download(blob_key(digest.sha256), FileDigest("0" * 64, digest.size_bytes))


def test_the_uri_opens_the_same_store(store: Store) -> None:
    store.write("a", b"1")
    assert open_store(store.uri).read("a") == b"1"


def test_an_empty_store_is_writable_and_stays_empty(store: Store) -> None:
    store.check_writable()
    assert list(store.list("")) == []


@pytest.mark.parametrize(
    ("version", "advice"), [(1, "use the release that wrote it, or another --store"), (3, "upgrade progdistill")]
)
def test_a_store_of_another_layout_is_refused(store: Store, version: int, advice: str) -> None:
    facts = {"schema_version": version}
    store.write("store.json", json.dumps(facts | {SEAL: content_id(facts)}).encode())
    with pytest.raises(UsageError, match=f"unsupported schema version {version}; expected 2: {advice}"):
        open_store(store.uri)
