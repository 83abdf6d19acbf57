"""ImageNet's full-size files: nested tars with the development kit, folders, and the paper's resizing."""

from pathlib import Path

import numpy as np
import pytest

from progdistill.data.importers import imagenet
from progdistill.data.importers.imagenet import open_imagenet
from progdistill.data.preprocess import Preprocessing
from progdistill.errors import UsageError
from tests.data.datasets import prepared, stored
from tests.data.published import Images, devkit_tar, encoded, tar_bytes, write_tar

RULE = Preprocessing(image_size=64)
CLASSES = ("n01440764", "n01443537", "n02119789")


def photograph(height: int, width: int, seed: int) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


PHOTOGRAPHS = {
    name: {f"{name}_{number}.JPEG": photograph(128 + 7 * number, 150, number) for number in range(1, 4)}
    for name in CLASSES
}
"""PNG data under JPEG names: what is decoded is known exactly, and decoders go by contents."""

VALIDATION = {f"ILSVRC2012_val_{number:08d}.JPEG": photograph(128, 128, number) for number in range(1, 6)}
TRUTH = [3, 1, 2, 1, 3]


def area_resized(image: Images) -> Images:
    """Center square crop, then the mean of each block: what area resizing by a whole factor is."""
    height, width, _ = image.shape
    side = min(height, width)
    top, left = height // 2 - side // 2, width // 2 - side // 2
    square = image[top : top + side, left : left + side].astype(np.float64)
    factor = side // 64
    blocks = square.reshape(64, factor, 64, factor, 3).mean(axis=(1, 3))
    return np.rint(blocks).astype(np.uint8)


def published_tars(folder: Path) -> Path:
    inner = {
        f"{name}.tar": tar_bytes({file: encoded(image) for file, image in images.items()})
        for name, images in PHOTOGRAPHS.items()
    }
    write_tar(folder / "ILSVRC2012_img_train.tar", inner)
    write_tar(folder / "ILSVRC2012_img_val.tar", {file: encoded(i) for file, i in VALIDATION.items()})
    devkit_tar(folder / "ILSVRC2012_devkit_t12.tar.gz", CLASSES, TRUTH)
    return folder


def folders(folder: Path) -> Path:
    for name, images in PHOTOGRAPHS.items():
        (folder / "train" / name).mkdir(parents=True)
        (folder / "val" / name).mkdir(parents=True)
        for file, image in images.items():
            (folder / "train" / name / file).write_bytes(encoded(image))
    for (file, image), truth in zip(VALIDATION.items(), TRUTH, strict=True):
        (folder / "val" / CLASSES[truth - 1] / file).write_bytes(encoded(image))
    return folder


@pytest.mark.parametrize("make", [published_tars, folders])
def test_tars_and_folders_give_the_same_images_and_classes(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "source").mkdir()
    source = open_imagenet(make(tmp_path / "source"), RULE, unverified=True)
    info = prepared(source, tmp_path, "imagenet64")
    assert info.class_names == CLASSES
    assert info.splits == {"train": 9, "validation": 5}
    expected = {file: image for images in PHOTOGRAPHS.values() for file, image in images.items()}
    assert [label for label, _ in stored(info)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len(stored(info)) == len(expected)
    assert [label for label, _ in stored(info, "validation")] == sorted(number - 1 for number in TRUTH)
    assert stored(info, "validation") == sorted(
        (truth - 1, area_resized(image).tobytes()) for image, truth in zip(VALIDATION.values(), TRUTH, strict=True)
    )


def test_the_training_tar_alone_is_enough(tmp_path: Path) -> None:
    path = published_tars(tmp_path) / "ILSVRC2012_img_train.tar"
    for other in ("ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"):
        (tmp_path / other).unlink()
    assert open_imagenet(path, RULE, unverified=True).facts.splits == {"train": 9}


def test_validation_images_need_the_development_kit(tmp_path: Path) -> None:
    (published_tars(tmp_path) / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(UsageError, match="ILSVRC2012_devkit_t12.tar.gz"):
        open_imagenet(tmp_path, RULE, unverified=True)


def test_reading_tars_goes_on_anywhere(tmp_path: Path) -> None:
    source = open_imagenet(published_tars(tmp_path), RULE, unverified=True)
    whole = [(image.name, image.label) for image in source.read("train", 0)]
    for start in range(10):
        assert [(image.name, image.label) for image in source.read("train", start)] == whole[start:]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_tar_is_named_before_anything_is_prepared(tmp_path: Path, share: float) -> None:
    path = published_tars(tmp_path) / "ILSVRC2012_img_train.tar"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UsageError, match="ILSVRC2012_img_train.tar is truncated"):
        open_imagenet(path, RULE, unverified=True)


def test_the_published_counts_are_required(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="9 images, published are 1,281,167"):
        open_imagenet(folders(tmp_path), RULE, unverified=False)


def test_the_development_kit_is_compared_with_the_published_one_before_it_is_looked_into(tmp_path: Path) -> None:
    (published_tars(tmp_path) / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"not an archive")
    with pytest.raises(UsageError, match="is not the published ILSVRC2012_devkit_t12.tar.gz: its MD5 is"):
        open_imagenet(tmp_path, RULE, unverified=False)


def test_the_archives_are_compared_with_the_published_ones_before_they_are_looked_into(tmp_path: Path) -> None:
    path = tmp_path / "ILSVRC2012_img_train.tar"
    path.write_bytes(b"not an archive")
    with pytest.raises(UsageError, match="is not the published ILSVRC2012_img_train.tar: its MD5 is"):
        open_imagenet(path, RULE, unverified=False)


def test_a_split_that_was_never_published_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "test"):
        (tmp_path / split / CLASSES[0]).mkdir(parents=True)
        (tmp_path / split / CLASSES[0] / "1.JPEG").write_bytes(encoded(photograph(64, 64, 0), "PNG"))
    monkeypatch.setitem(imagenet.COUNTS, "train", 1)
    with pytest.raises(UsageError, match="split test has 1 images, published are 0.*--unverified"):
        open_imagenet(tmp_path, RULE, unverified=False)


def test_a_damaged_development_kit_is_named(tmp_path: Path) -> None:
    path = published_tars(tmp_path) / "ILSVRC2012_devkit_t12.tar.gz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UsageError, match="ILSVRC2012_devkit_t12.tar.gz is truncated"):
        open_imagenet(tmp_path, RULE, unverified=True)
