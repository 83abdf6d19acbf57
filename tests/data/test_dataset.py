"""Finding datasets, also missing, unknown, replaced and damaged ones."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from progdistill.data.dataset import DatasetInfo, find_dataset
from progdistill.data.manifest import read_manifest
from progdistill.data.reading import iterate_images, read_split
from progdistill.data.shards import write_rows
from progdistill.errors import LostInvariantError, UsageError
from progdistill.models_base import content_id
from progdistill.store.digest import digest_of_file
from progdistill.store.documents import SEAL, encode
from progdistill.store.local import LocalStore


def test_an_unknown_name_is_answered_with_the_known_ones_and_the_nearest(tmp_path: Path) -> None:
    find_dataset("digits", tmp_path)
    with pytest.raises(UsageError, match="did you mean digits") as raised:
        find_dataset("digit", tmp_path)
    for word in ("cifar10", "digits", "imagenet64", "lsun_bedroom", "lsun_church", "progdistill data prepare"):
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar10", "cifar-10-python.tar.gz"),
        ("imagenet64", "Imagenet64_train_part1_npz.zip"),
        ("lsun_bedroom", "bedroom_train_lmdb.zip"),
        ("lsun_church", "church_outdoor_train_lmdb.zip"),
    ],
)
def test_a_missing_known_dataset_is_answered_with_its_files_and_the_command(
    tmp_path: Path, name: str, file: str
) -> None:
    with pytest.raises(UsageError, match=f"progdistill data prepare {name} --source") as raised:
        find_dataset(name, tmp_path)
    assert file in str(raised.value)


def test_a_raw_folder_of_images_is_answered_with_the_command(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "cats" / "1.png")
    with pytest.raises(UsageError, match=f"data prepare cats --source {tmp_path}/cats"):
        find_dataset(str(tmp_path / "cats"), tmp_path / "root")


def test_an_empty_folder_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no manifest\.json"):
        find_dataset(str(tmp_path), tmp_path / "root")


def test_a_prepared_folder_is_found_by_path_and_by_uri(digits: DatasetInfo, tmp_path: Path) -> None:
    assert find_dataset(digits.location, tmp_path) == digits
    assert find_dataset(f"file://{digits.location}", tmp_path) == digits


def test_an_unknown_split_is_answered_with_those_there_are(digits: DatasetInfo) -> None:
    with pytest.raises(UsageError, match="test, train"):
        read_split(digits, "validation")


def test_other_data_in_the_same_place_is_noticed(digits: DatasetInfo) -> None:
    with pytest.raises(LostInvariantError, match=f"fingerprint {digits.fingerprint}, expected {'0' * 64}"):
        read_split(digits.model_copy(update={"fingerprint": "0" * 64}), "train")


def test_a_corrupt_shard_is_named_with_its_digest(tmp_path: Path) -> None:
    info = find_dataset("digits", tmp_path)
    shard = tmp_path / "digits" / "train-00000.arrow"
    shard.chmod(0o644)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(LostInvariantError, match=r"train-00000\.arrow is damaged.*digest [0-9a-f]{64}"):
        read_split(info, "train")
    shard.unlink()
    with pytest.raises(LostInvariantError, match=r"train-00000\.arrow is missing"):
        read_split(info, "train")


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    find_dataset("digits", tmp_path)
    path = tmp_path / "digits" / "manifest.json"
    path.write_text(path.read_text().replace('"rows": 360', '"rows": 361'))
    with pytest.raises(LostInvariantError, match=r"manifest\.json is damaged"):
        find_dataset("digits", tmp_path)


def test_a_manifest_cannot_name_a_file_outside_its_folder(tmp_path: Path) -> None:
    find_dataset("digits", tmp_path)
    store = LocalStore(tmp_path / "digits")
    manifest = read_manifest(store)
    assert manifest is not None
    outside = manifest.splits["train"][0].model_copy(update={"file": "../train-00000.arrow"})
    forged = manifest.model_copy(update={"splits": {"train": (outside,)}})
    store.write("manifest.json", encode(forged))
    with pytest.raises(LostInvariantError, match="not a valid DatasetManifest"):
        find_dataset("digits", tmp_path)


@pytest.mark.parametrize("label", [10, -1])
def test_a_label_that_the_dataset_does_not_have_is_refused_though_every_digest_fits(tmp_path: Path, label: int) -> None:
    find_dataset("digits", tmp_path)
    store = LocalStore(tmp_path / "digits")
    manifest = read_manifest(store)
    assert manifest is not None
    entry, path = manifest.splits["train"][0], tmp_path / "digits" / "train-00000.arrow"
    write_rows(path, entry.layout, 3, {"label": np.array([label])})
    forged = entry.model_copy(update={"digest": digest_of_file(path)})
    store.write(
        "manifest.json", encode(manifest.model_copy(update={"splits": {**manifest.splits, "train": (forged,)}}))
    )
    with pytest.raises(LostInvariantError, match=f"has labels .*{label}.* but the dataset has labels 0 … 9"):
        read_split(find_dataset("digits", tmp_path), "train")


@pytest.mark.parametrize("batch_size", [1, 100, 479, 5000])
def test_batches_join_to_the_whole_split(digits: DatasetInfo, batch_size: int) -> None:
    images, labels = read_split(digits, "train")
    batches = list(iterate_images(digits, "train", batch_size))
    assert all(len(part) == batch_size for _, part in batches[:-1])
    assert np.array_equal(np.concatenate([part for part, _ in batches]), images)
    assert np.array_equal(np.concatenate([part for _, part in batches]), labels)


def test_a_dataset_that_an_older_version_prepared_is_refused(tmp_path: Path) -> None:
    find_dataset("digits", tmp_path)
    path = tmp_path / "digits" / "manifest.json"
    older = json.loads(path.read_text()) | {"schema_version": 1}
    del older[SEAL]
    path.write_text(json.dumps(older | {SEAL: content_id(older)}))
    with pytest.raises(UsageError, match="unsupported schema version 1; .*: remove it and prepare the dataset again"):
        find_dataset("digits", tmp_path)
