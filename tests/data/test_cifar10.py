"""CIFAR-10 in both published versions, packed and unpacked, complete and damaged."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from progdistill.data.importers.cifar10 import PYTHON, Cifar10Source
from progdistill.data.importers.common import PublishedFile, verify_published
from progdistill.data.source import SourceImage
from progdistill.errors import UsageError
from tests.data.datasets import prepared, rows, stored
from tests.data.published import (
    CIFAR10_NAMES,
    Images,
    Labels,
    cifar10_binary_files,
    cifar10_files,
    random_images,
    write_tar,
)

BATCHES = [random_images(30, 32, seed) for seed in range(5)]
TEST = random_images(20, 32, 9)


def joined(batches: list[tuple[Images, Labels]]) -> tuple[Images, Labels]:
    return np.concatenate([images for images, _ in batches]), np.concatenate([labels for _, labels in batches])


def python_archive(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    files = cifar10_files(BATCHES, TEST) if files is None else files
    named = {f"cifar-10-batches-py/{name}": data for name, data in files.items()}
    return write_tar(folder / "cifar-10-python.tar.gz", named, "w:gz")


def binary_archive(folder: Path) -> Path:
    files = {f"cifar-10-batches-bin/{n}": d for n, d in cifar10_binary_files(BATCHES, TEST).items()}
    return write_tar(folder / "cifar-10-binary.tar.gz", files, "w:gz")


def unpacked(folder: Path) -> Path:
    inside = folder / "cifar-10-batches-py"
    inside.mkdir()
    for name, data in cifar10_files(BATCHES, TEST).items():
        (inside / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("make", [python_archive, binary_archive, unpacked])
def test_every_published_form_gives_the_same_dataset(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    info = prepared(Cifar10Source(make(tmp_path), unverified=True), tmp_path, "cifar10")
    assert info.splits == {"train": 150, "test": 20}
    assert info.class_names == CIFAR10_NAMES
    assert info.horizontal_flip_safe
    assert stored(info) == rows(*joined(BATCHES))
    assert stored(info, "test") == rows(*TEST)
    assert info.fingerprint == "286d8c0da307ac5fd77511e4b587f2ae61ef1cd71712bf846d1e8bd368b79f97"


def test_reading_goes_on_anywhere(tmp_path: Path) -> None:
    source = Cifar10Source(python_archive(tmp_path), unverified=True)

    def facts(image: SourceImage) -> tuple[str, int, bytes]:
        assert isinstance(image.pixels, np.ndarray)
        return image.name, image.label, image.pixels.tobytes()

    whole = [facts(image) for image in source.read("train", 0)]
    for start in (0, 29, 30, 31, 149, 150):
        assert [facts(image) for image in source.read("train", start)] == whole[start:]


def test_other_counts_than_published_are_refused_unless_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="150 images, published are 50,000.*--unverified"):
        Cifar10Source(unpacked(tmp_path), unverified=False)


def test_an_archive_is_compared_with_the_published_one_before_it_is_looked_into(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(b"not an archive")
    with pytest.raises(UsageError, match="is not the published cifar-10-python.tar.gz: its MD5 is"):
        Cifar10Source(path, unverified=False)


def test_a_file_that_is_not_the_published_one_is_named_with_both_checksums(tmp_path: Path) -> None:
    path = python_archive(tmp_path)
    found = hashlib.md5(path.read_bytes()).hexdigest()
    with pytest.raises(UsageError, match=f"{path} .*MD5 is {found}.*c58f30108f718f92721af3b95e74349a"):
        verify_published([(path, PYTHON.archive)])
    verify_published([(path, PublishedFile("the same", found))])


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_truncated_archive_is_named(tmp_path: Path, share: float) -> None:
    path = python_archive(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UsageError, match="cifar-10-python.tar.gz is truncated"):
        Cifar10Source(path, unverified=True)


def test_the_wrong_archive_is_named_with_what_it_holds(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "cifar-100-python.tar.gz", {"cifar-100-python/train": b"x"}, "w:gz")
    with pytest.raises(UsageError, match="wrong archive: it holds cifar-100-python"):
        Cifar10Source(path, unverified=True)


def test_something_that_is_no_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(gzip.compress(b"not a tar"))
    with pytest.raises(UsageError, match="truncated, damaged or not such an archive"):
        Cifar10Source(path, unverified=True)


def test_an_archive_without_a_batch_is_named(tmp_path: Path) -> None:
    files = cifar10_files(BATCHES, TEST)
    del files["data_batch_3"]
    with pytest.raises(UsageError, match="data_batch_3"):
        Cifar10Source(python_archive(tmp_path, files), unverified=True)


def test_labels_out_of_range_are_named(tmp_path: Path) -> None:
    images, labels = BATCHES[1]
    wrong = labels.copy()
    wrong[7] = 10
    batches = [BATCHES[0], (images, wrong), *BATCHES[2:]]
    source = Cifar10Source(python_archive(tmp_path, cifar10_files(batches, TEST)), unverified=True)
    with pytest.raises(UsageError, match=r"data_batch_2\[7\] has label 10, out of range"):
        prepared(source, tmp_path)
