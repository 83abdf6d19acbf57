"""Datasets in a bucket of a real S3 server, read through the size-limited cache that a host's ranks share."""

import json
from pathlib import Path

import pytest

from progdistill.cli.main import main
from progdistill.data import prepare as publish
from progdistill.data.dataset import DatasetInfo, find_dataset, manifest_of
from progdistill.data.loader import TrainingLoader
from progdistill.data.prepare import UPLOADING_KEY
from progdistill.data.reading import read_split
from progdistill.errors import Interrupted, LostInvariantError, UsageError
from progdistill.store.open import open_store
from tests.data.datasets import loaded, numbered_dataset, streaming
from tests.data.published import encoded, random_images

IMAGES = 1200
UPDATES = range(0, 30)


@pytest.fixture
def uri(s3_uri: str) -> str:
    """Where a test's dataset goes."""
    return f"{s3_uri}/data/numbered"


@pytest.fixture
def remote(uri: str, tmp_path: Path) -> DatasetInfo:
    """24 shards in a bucket, and nothing of them on this disk."""
    return numbered_dataset(tmp_path / "staging", IMAGES, out=uri)


def cached(tmp_path: Path) -> list[Path]:
    """The shards in the cache."""
    return [path for path in (tmp_path / "cache" / "shards").glob("*/*") if path.name != ".lock"]


def test_the_command_prepares_into_a_bucket_what_it_prepares_into_a_folder(
    s3_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROGDISTILL_DATA", str(tmp_path / "data"))
    (tmp_path / "cats").mkdir()
    for number, image in enumerate(random_images(9, 8)[0]):
        (tmp_path / "cats" / f"{number}.png").write_bytes(encoded(image))
    command = ["data", "prepare", "cats", "--source", str(tmp_path / "cats"), "--json"]
    assert main(command) == 0
    local = json.loads(capsys.readouterr().out)
    assert main([*command, "--out", f"{s3_uri}/cats"]) == 0
    there = json.loads(capsys.readouterr().out)
    assert there["fingerprint"] == local["fingerprint"]
    assert main(["data", "info", f"{s3_uri}/cats", "--verify", "--grid", str(tmp_path / "grid.png")]) == 0
    assert f"location     {s3_uri}/cats" in capsys.readouterr().out
    assert (tmp_path / "grid.png").stat().st_size > 0
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["cats"]
    with pytest.raises(UsageError, match=f"no prepared dataset at {s3_uri}/dogs: prepare it with"):
        find_dataset(f"{s3_uri}/dogs", tmp_path)


def test_training_reads_from_a_bucket_what_it_reads_from_a_folder(
    remote: DatasetInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = numbered_dataset(tmp_path, IMAGES)
    assert remote.fingerprint == local.fingerprint
    expected = loaded(local, UPDATES)
    assert loaded(remote, UPDATES) == expected
    streaming(monkeypatch)
    assert loaded(remote, UPDATES, world_size=2) == expected


def test_the_cache_stays_within_its_bound_while_training_streams_through_it(
    remote: DatasetInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streaming(monkeypatch)
    sizes = [entry.digest.size_bytes for entry in manifest_of(remote).splits["train"]]
    limit = sum(sizes) // 4
    monkeypatch.setenv("PROGDISTILL_DATA_CACHE_GIB", str(limit / 2**30))
    one = TrainingLoader(remote, batch_size=64, seed=3, flip=True)
    most = 0
    for update in range(120):
        one.batch(update)
        # A copy may go away between being listed and being measured: it is read from its descriptor.
        found = [path for path in cached(tmp_path) if path.exists()]
        most = max(most, len(found) * max(sizes))
    one.close()
    # The eight threads that fetch add one copy each before one of them measures.
    assert max(sizes) < most <= limit + limit // 64 + 9 * max(sizes)


def test_the_ranks_of_a_host_share_one_copy(
    remote: DatasetInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streaming(monkeypatch)
    first = loaded(remote, UPDATES)
    assert len(cached(tmp_path)) == 24
    store = open_store(remote.location)
    for entry in manifest_of(remote).splits["train"][:4]:
        store.delete(entry.file)
    assert loaded(remote, UPDATES, world_size=2) == first


def test_a_damaged_copy_is_fetched_again(remote: DatasetInfo, tmp_path: Path) -> None:
    images, _ = read_split(remote, "train")
    for path in cached(tmp_path):
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    again, _ = read_split(remote, "train")
    assert (again == images).all()


@pytest.mark.parametrize("harm", ["damage", "removal"])
def test_a_shard_that_is_harmed_in_the_bucket_is_named(
    remote: DatasetInfo, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    streaming(monkeypatch)
    store = open_store(remote.location)
    if harm == "damage":
        data = store.read("train-00007.arrow")
        assert data is not None
        store.write("train-00007.arrow", data[:-9] + b"\xff" + data[-8:])
        output = r"train-00007\.arrow is damaged: .*digest [0-9a-f]{64}, expected .* [0-9a-f]{64}"
    else:
        store.delete("train-00007.arrow")
        output = r"s3://.*/train-00007\.arrow is missing; restore it from a copy"
    with pytest.raises(LostInvariantError, match=output):
        loaded(remote, UPDATES)


def test_a_cut_off_upload_is_invisible_and_goes_on_where_it_was(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded = []

    def cut_off(*arguments: object) -> object:
        if len(uploaded) == 10:
            raise KeyboardInterrupt
        uploaded.append(arguments)
        return upload_one(*arguments)

    upload_one = publish._upload_one
    with monkeypatch.context() as patched:
        patched.setattr(publish, "UPLOADS", 1)
        patched.setattr(publish, "_upload_one", cut_off)
        with pytest.raises(Interrupted, match="run the same command again"):
            numbered_dataset(tmp_path / "staging", IMAGES, out=uri)
    with pytest.raises(UsageError, match="no prepared dataset"):
        find_dataset(uri, tmp_path)
    store = open_store(uri)
    before = {item.key: item.modified_at for item in store.list("") if item.key.endswith(".arrow")}
    assert len(before) == 10
    info = numbered_dataset(tmp_path / "staging", IMAGES, out=uri)
    after = {item.key: item.modified_at for item in store.list("") if item.key.endswith(".arrow")}
    assert len(after) == 24 and before.items() <= after.items()
    assert store.read(UPLOADING_KEY) is None
    assert sum(len(update) for update in loaded(info, range(2))) == 128
