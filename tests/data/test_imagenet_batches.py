"""Downsampled ImageNet: npz batches, older pickles of Python 2 and 3, and invalid files."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from progdistill.data.importers.imagenet_batches import ImageNetBatchesSource
from progdistill.errors import UsageError
from tests.data.datasets import prepared, rows, stored
from tests.data.published import imagenet_npz, imagenet_pickle, planes, python2_pickle, random_images

BATCHES = {number: random_images(12, 64, number, classes=1000) for number in range(1, 11)}
VALIDATION = random_images(15, 64, 99, classes=1000)


def npz_batches(folder: Path) -> None:
    """As the two zip archives unpack: five batches in each."""
    for number, batch in BATCHES.items():
        part = folder / f"Imagenet64_train_part{1 if number <= 5 else 2}_npz"
        part.mkdir(parents=True, exist_ok=True)
        imagenet_npz(part / f"train_data_batch_{number}.npz", *batch)
    (folder / "Imagenet64_val_npz").mkdir()
    imagenet_npz(folder / "Imagenet64_val_npz" / "val_data.npz", *VALIDATION)


def pickled_by(dump: Callable[[object], bytes]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for number, batch in BATCHES.items():
            imagenet_pickle(folder / f"train_data_batch_{number}", *batch, dump)
        imagenet_pickle(folder / "val_data", *VALIDATION, dump)

    return write


FORMS = {
    "npz": npz_batches,
    "python 3 pickle": pickled_by(lambda value: pickle.dumps(value, protocol=3)),
    "python 2 pickle": pickled_by(python2_pickle),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_published_form_gives_the_same_dataset(form: str, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    FORMS[form](tmp_path / "source")
    info = prepared(ImageNetBatchesSource(tmp_path / "source", 64, unverified=True), tmp_path, "imagenet64")
    assert info.splits == {"train": 120, "validation": 15}
    assert (info.image_size, info.channels, info.num_classes) == (64, 3, 1000)
    images = np.concatenate([images for images, _ in BATCHES.values()])
    labels = np.concatenate([labels for _, labels in BATCHES.values()])
    assert stored(info) == rows(images, labels)
    assert stored(info, "validation") == rows(*VALIDATION)
    assert info.fingerprint == "afc67651e93afeefa086f71a351942d84ec407279e0c2759c494c87acdc69f0d"


@pytest.mark.parametrize("form", FORMS)
def test_reading_goes_on_anywhere(form: str, tmp_path: Path) -> None:
    FORMS[form](tmp_path)
    source = ImageNetBatchesSource(tmp_path, 64, unverified=True)
    whole = [(image.name, image.label) for image in source.read("train", 0)]
    assert len(whole) == 120
    for start in (1, 11, 12, 13, 119, 120):
        assert [(image.name, image.label) for image in source.read("train", start)] == whole[start:]


def test_deflated_npz_files_are_read_too(tmp_path: Path) -> None:
    images, labels = BATCHES[1]
    np.savez_compressed(tmp_path / "train_data_batch_1.npz", data=planes(images), labels=labels + 1)
    info = prepared(ImageNetBatchesSource(tmp_path, 64, unverified=True), tmp_path)
    assert stored(info) == rows(images, labels)


def test_class_names_come_from_the_development_kit_where_it_is_there(tmp_path: Path) -> None:
    npz_batches(tmp_path)
    assert ImageNetBatchesSource(tmp_path, 64, unverified=True).facts.class_names[:2] == ("1", "2")
    lines = [f"n{number:08d} {number} name_{number}" for number in range(1, 1001)]
    (tmp_path / "map_clsloc.txt").write_text("\n".join(lines))
    named = ImageNetBatchesSource(tmp_path, 64, unverified=True).facts.class_names
    assert (named[0], named[999]) == ("name_1", "name_1000")


def test_the_published_counts_are_required(tmp_path: Path) -> None:
    npz_batches(tmp_path)
    with pytest.raises(UsageError, match="120 images, published are 1,281,167"):
        ImageNetBatchesSource(tmp_path, 64, unverified=False)


def test_another_size_is_the_wrong_file(tmp_path: Path) -> None:
    imagenet_npz(tmp_path / "train_data_batch_1.npz", *random_images(4, 32))
    with pytest.raises(UsageError, match=r"train_data_batch_1.npz is the wrong file.*32×32, not 64×64"):
        ImageNetBatchesSource(tmp_path, 64, unverified=True)


def test_labels_out_of_range_are_named(tmp_path: Path) -> None:
    images, labels = BATCHES[1]
    imagenet_npz(tmp_path / "train_data_batch_1.npz", images, labels * 0 - 1)
    source = ImageNetBatchesSource(tmp_path, 64, unverified=True)
    with pytest.raises(UsageError, match=r"train_data_batch_1.npz\[0\] has label -1, out of range"):
        prepared(source, tmp_path)


@pytest.mark.parametrize("suffix", ["", ".npz"])
def test_truncated_batches_are_named(tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f"train_data_batch_1{suffix}"
    if suffix:
        imagenet_npz(whole, *BATCHES[1])
    else:
        imagenet_pickle(whole, *BATCHES[1], pickle.dumps)
    whole.write_bytes(whole.read_bytes()[:-1000])
    with pytest.raises(UsageError, match=f"train_data_batch_1{suffix} is (truncated|damaged)"):
        ImageNetBatchesSource(tmp_path, 64, unverified=True)


def test_a_damaged_byte_is_noticed_while_reading(tmp_path: Path) -> None:
    path = tmp_path / "train_data_batch_1.npz"
    imagenet_npz(path, *BATCHES[1])
    data = bytearray(path.read_bytes())
    data[50_000] ^= 1
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"train_data_batch_1.npz is truncated or damaged \(Bad CRC-32"):
        prepared(ImageNetBatchesSource(tmp_path, 64, unverified=True), tmp_path)


def test_an_npz_that_hides_a_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train_data_batch_1.npz"
    np.savez(path, data=np.array([{}], object), labels=np.array([1]))
    with pytest.raises(UsageError, match="refused"):
        ImageNetBatchesSource(tmp_path, 64, unverified=True)


def test_a_folder_without_batches_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no train_data_batch_1.npz"):
        ImageNetBatchesSource(tmp_path, 64, unverified=True)
    shutil.rmtree(tmp_path)
