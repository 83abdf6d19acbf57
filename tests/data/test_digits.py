"""Finding, preparing and reading datasets."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from progdistill.data.dataset import DatasetInfo, find_dataset
from progdistill.data.digits import DESCRIPTION, embedded_digits
from progdistill.data.reading import iterate_images, read_split
from progdistill.data.stored import publish, read_manifest
from progdistill.errors import LostInvariantError, UsageError

FIND = "import sys; from pathlib import Path; from progdistill.data.dataset import find_dataset;"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    return find_dataset("digits", tmp_path_factory.mktemp("data"))


def test_the_fingerprint_is_the_same_twice(digits: DatasetInfo, tmp_path: Path) -> None:
    assert find_dataset("digits", tmp_path).fingerprint == digits.fingerprint


def test_the_fingerprint_does_not_depend_on_the_shards_nor_ignore_a_pixel(tmp_path: Path) -> None:
    pixels, labels = embedded_digits()
    one = publish(tmp_path / "one", DESCRIPTION, {"train": (pixels, labels)})
    many = publish(tmp_path / "many", DESCRIPTION, {"train": (pixels, labels)}, shard_images=100)
    changed = pixels.copy()
    changed[3, 2, 1, 0] ^= 1
    other = publish(tmp_path / "other", DESCRIPTION, {"train": (changed, labels)})
    assert (len(one.shards), len(many.shards)) == (1, 18)
    assert one.fingerprint == many.fingerprint != other.fingerprint


def test_every_fifth_image_is_test_and_the_rest_train(digits: DatasetInfo) -> None:
    pixels, labels = embedded_digits()
    assert digits.splits == {"train": 1437, "test": 360}
    test_pixels, test_labels = read_split(digits, "test")
    train_pixels, train_labels = read_split(digits, "train")
    np.testing.assert_array_equal(test_pixels, pixels[::5])
    np.testing.assert_array_equal(test_labels, labels[::5])
    rest = np.arange(len(labels)) % 5 != 0
    np.testing.assert_array_equal(train_pixels, pixels[rest])
    np.testing.assert_array_equal(train_labels, labels[rest])


def test_pixels_are_bytes_from_black_to_white(digits: DatasetInfo) -> None:
    pixels, labels = read_split(digits, "train")
    assert pixels.dtype == np.uint8 and labels.dtype == np.int64
    assert (pixels.min(), pixels.max(), len(np.unique(pixels))) == (0, 255, 17)


@pytest.mark.parametrize("batch_size", [1, 64, 100, 150, 5000])
def test_batches_across_shards_join_to_the_whole_split(tmp_path: Path, batch_size: int) -> None:
    pixels, labels = embedded_digits()
    publish(tmp_path / "cut", DESCRIPTION, {"train": (pixels, labels)}, shard_images=100)
    info = find_dataset(str(tmp_path / "cut"), tmp_path)
    batches = list(iterate_images(info, "train", batch_size))
    assert all(len(part) == batch_size for _, part in batches[:-1])
    np.testing.assert_array_equal(np.concatenate([part for part, _ in batches]), pixels)
    np.testing.assert_array_equal(np.concatenate([part for _, part in batches]), labels)


def test_a_corrupt_shard_is_named_and_refused(tmp_path: Path) -> None:
    info = find_dataset("digits", tmp_path)
    shard = tmp_path / "digits" / "train-00000.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(LostInvariantError, match=r"train-00000\.arrow is corrupt"):
        read_split(info, "train")
    shard.unlink()
    with pytest.raises(LostInvariantError, match=r"train-00000\.arrow is missing"):
        read_split(info, "train")


def test_a_damaged_manifest_and_a_changed_dataset_are_refused(tmp_path: Path) -> None:
    info = find_dataset("digits", tmp_path)
    with pytest.raises(LostInvariantError, match="changed"):
        read_split(info.model_copy(update={"fingerprint": "0" * 64}), "train")
    (tmp_path / "digits" / "manifest.json").write_text("{")
    with pytest.raises(LostInvariantError, match="damaged"):
        find_dataset("digits", tmp_path)


def test_a_manifest_cannot_name_a_file_outside_its_folder(tmp_path: Path) -> None:
    find_dataset("digits", tmp_path)
    manifest = tmp_path / "digits" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("train-00000", "../train-00000"))
    with pytest.raises(LostInvariantError, match="damaged"):
        read_manifest(tmp_path / "digits")


def test_an_unknown_name_is_answered_with_the_known_and_the_prepared(tmp_path: Path) -> None:
    find_dataset("digits", tmp_path)
    with pytest.raises(UsageError, match=r"no dataset 'digit'.*imagenet64.*prepared in .*: digits"):
        find_dataset("digit", tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "imagenet64", "lsun_bedroom", "lsun_church"])
def test_a_missing_dataset_is_answered_with_its_files_and_the_prepare_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"https://.*not in this version yet") as raised:
        find_dataset(name, tmp_path)
    assert f"`progdistill data prepare {name} --source PATH`" in str(raised.value)


def test_a_split_or_a_scheme_that_is_not_there_is_a_usage_error(digits: DatasetInfo, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it has train, test"):
        read_split(digits, "validation")
    with pytest.raises(UsageError, match="only local folders"):
        find_dataset("s3://bucket/digits", tmp_path)
    with pytest.raises(UsageError, match="holds no dataset"):
        find_dataset(str(tmp_path), tmp_path)


def test_processes_that_prepare_at_once_agree_and_leave_nothing_behind(tmp_path: Path) -> None:
    line = f"{FIND} print(find_dataset('digits', Path(sys.argv[1])).fingerprint)"

    def prepare(_: int) -> str:
        return subprocess.check_output([sys.executable, "-c", line, str(tmp_path)], text=True)

    with ThreadPoolExecutor(4) as pool:
        fingerprints = set(pool.map(prepare, range(4)))
    assert len(fingerprints) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_a_folder_with_other_data_is_not_overwritten(tmp_path: Path) -> None:
    pixels, labels = embedded_digits()
    first = publish(tmp_path / "mine", DESCRIPTION, {"train": (pixels, labels)})
    with pytest.raises(UsageError, match="already holds other data"):
        publish(tmp_path / "mine", DESCRIPTION, {"train": (pixels[:9], labels[:9])})
    assert read_manifest(tmp_path / "mine") == first


def test_opening_a_prepared_dataset_imports_no_heavy_library(digits: DatasetInfo) -> None:
    heavy = "{'torch', 'sklearn', 'scipy', 'pyarrow'}"
    line = f"{FIND} find_dataset('digits', Path(sys.argv[1])); print(sorted({heavy} & set(sys.modules)))"
    root = str(Path(digits.location).parent)
    assert subprocess.check_output([sys.executable, "-c", line, root], text=True).strip() == "[]"
