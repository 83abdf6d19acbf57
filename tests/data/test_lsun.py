"""LSUN's databases, with a real LMDB."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from progdistill.data.importers.lsun import LsunSource
from progdistill.data.preprocess import Preprocessing, Resize
from progdistill.errors import UsageError
from tests.data.datasets import prepared, stored
from tests.data.published import encoded, lsun_database, random_images

RULE = Preprocessing(image_size=128, resize=Resize.BILINEAR)
PHOTOGRAPHS = [image[:, :256].repeat(2, axis=1)[:, : 256 + 40 * n] for n, image in enumerate(random_images(6, 256)[0])]


def keyed(kind: str = "PNG") -> dict[str, bytes]:
    files = [encoded(image, kind) for image in PHOTOGRAPHS]
    return {hashlib.sha1(data).hexdigest(): data for data in files}


def databases(folder: Path, category: str = "bedroom") -> Path:
    lsun_database(folder / f"{category}_train_lmdb", keyed())
    lsun_database(folder / f"{category}_val_lmdb", dict(list(keyed().items())[:2]))
    return folder


def test_every_image_is_cropped_to_its_middle_and_resized(tmp_path: Path) -> None:
    info = prepared(LsunSource(databases(tmp_path), "bedroom", RULE, unverified=True), tmp_path)
    assert info.splits == {"train": 6, "validation": 2}
    assert (info.image_size, info.num_classes, info.horizontal_flip_safe) == (128, 0, True)
    images = {np.frombuffer(data, np.uint8).reshape(128, 128, 3).tobytes() for _, data in stored(info)}
    assert len(images) == 6
    for photograph in PHOTOGRAPHS:
        left = photograph.shape[1] // 2 - 128
        square = photograph[:, left : left + 256].astype(np.float64)
        assert any(_close(square, np.frombuffer(data, np.uint8).reshape(128, 128, 3)) for data in images)


def _close(square: np.ndarray, image: np.ndarray) -> bool:  # type: ignore[type-arg]
    """Halving with an antialiased bilinear filter: weights 1, 3, 3, 1 of 8 in both directions."""
    padded = np.pad(square, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = sum(weight * padded[k : k + 256 : 2] for k, weight in enumerate((1, 3, 3, 1)))
    both = sum(weight * rows[:, k : k + 256 : 2] for k, weight in enumerate((1, 3, 3, 1))) / 64
    return bool(np.abs(both[1:-1, 1:-1] - image[1:-1, 1:-1]).max() <= 0.51)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_both_encodings_of_the_published_databases_are_read(tmp_path: Path, kind: str) -> None:
    lsun_database(tmp_path / "church_outdoor_train_lmdb", keyed(kind))
    source = LsunSource(tmp_path, "church_outdoor", RULE, unverified=True)
    assert prepared(source, tmp_path, "lsun_church").splits == {"train": 6}


def test_the_database_folder_itself_can_be_given(tmp_path: Path) -> None:
    databases(tmp_path)
    source = LsunSource(tmp_path / "bedroom_train_lmdb", "bedroom", RULE, unverified=True)
    assert source.facts.splits == {"train": 6}


def test_reading_goes_on_anywhere_in_the_order_of_keys(tmp_path: Path) -> None:
    source = LsunSource(databases(tmp_path), "bedroom", RULE, unverified=True)
    names = [image.name for image in source.read("train", 0)]
    assert names == [f"train/{key}" for key in sorted(keyed())]
    for start in range(7):
        assert [image.name for image in source.read("train", start)] == names[start:]


def test_the_published_counts_are_required(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="6 images, published are 3,033,042"):
        LsunSource(databases(tmp_path), "bedroom", RULE, unverified=False)


def test_a_missing_database_is_named_with_its_archive(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unpack church_outdoor_train_lmdb.zip"):
        LsunSource(databases(tmp_path), "church_outdoor", RULE, unverified=True)


def test_what_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(UsageError, match="truncated or not an LMDB database"):
        LsunSource(tmp_path, "bedroom", RULE, unverified=True)
