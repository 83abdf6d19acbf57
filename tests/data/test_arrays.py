"""Users' npy and npz files."""

from pathlib import Path

import numpy as np
import pytest

from progdistill.data.importers.arrays import ArraysSource
from progdistill.data.source import Source
from progdistill.errors import UsageError
from tests.data.datasets import prepared, rows, stored
from tests.data.published import random_images

IMAGES, LABELS = random_images(20, 8, classes=4)


def arrays(path: Path) -> Source:
    return ArraysSource(path, horizontal_flip_safe=True)


@pytest.mark.parametrize("keys", [("images", "labels"), ("data", "labels"), ("arr_0", "arr_1")])
def test_images_and_classes_are_found_by_their_keys(tmp_path: Path, keys: tuple[str, str]) -> None:
    np.savez(tmp_path / "x.npz", **{keys[0]: IMAGES, keys[1]: LABELS})
    info = prepared(arrays(tmp_path / "x.npz"), tmp_path)
    assert info.class_names == ("0", "1", "2", "3")
    assert stored(info) == rows(IMAGES, LABELS)


def test_training_and_test_arrays_are_splits(tmp_path: Path) -> None:
    parts = {"x_train": IMAGES[:15], "y_train": LABELS[:15, None], "x_test": IMAGES[15:], "y_test": LABELS[15:]}
    np.savez_compressed(tmp_path / "x.npz", **parts)
    info = prepared(arrays(tmp_path / "x.npz"), tmp_path)
    assert info.splits == {"train": 15, "test": 5}
    assert stored(info, "test") == rows(IMAGES[15:], LABELS[15:])


def test_an_npy_file_has_images_without_classes(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", IMAGES)
    info = prepared(arrays(tmp_path / "x.npy"), tmp_path)
    assert (info.num_classes, info.channels) == (0, 3)
    assert stored(info) == rows(IMAGES, LABELS * 0)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (1, 8, 8)])
def test_one_channel_may_be_written_in_any_way(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "x.npy", IMAGES[:, :, :, 0].reshape(20, *shape))
    info = prepared(arrays(tmp_path / "x.npy"), tmp_path)
    assert info.channels == 1
    assert stored(info) == rows(IMAGES[:, :, :, :1], LABELS * 0)


def test_channels_may_come_first(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2)))
    assert stored(prepared(arrays(tmp_path / "x.npy"), tmp_path)) == rows(IMAGES, LABELS * 0)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"images": IMAGES / 255}, "holds float64: images are uint8"),
        ({"images": IMAGES[:, :4]}, r"has shape \[20, 4, 8, 3\]"),
        ({"images": IMAGES[0]}, r"has shape \[8, 8, 3\]"),
        ({"pictures": IMAGES}, "has arrays pictures: name the images one of images"),
        ({"images": IMAGES, "labels": LABELS[:3]}, r"labels is int64 \[3\].* 20 class numbers"),
        ({"images": IMAGES, "labels": LABELS / 2}, "labels is float64"),
        ({"images": IMAGES, "labels": np.zeros((20, 0), int)}, r"labels is int64 \[20, 0\]"),
        ({"images": IMAGES[:1], "labels": np.array(0)}, r"labels is int64 \[\]"),
        ({"images": IMAGES, "labels": LABELS + 10**8}, r"labels has class number 10000000\d, above 999999"),
        ({"images": IMAGES, "labels": LABELS.astype(np.uint64) - 4}, r"labels has class number 184467440\d+, abo"),
        ({"images": IMAGES[:, :0, :0]}, r"images has shape \[20, 0, 0, 3\], without any pixels"),
        ({"x_train": IMAGES, "x_test": IMAGES[:, :4, :4]}, "x_test has images of another shape"),
        ({"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES}, "x_test has no classes, unlike the other"),
    ],
)
def test_what_is_no_dataset_is_named(tmp_path: Path, contents: dict[str, np.ndarray], message: str) -> None:  # type: ignore[type-arg]
    np.savez(tmp_path / "x.npz", **contents)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message):
        arrays(tmp_path / "x.npz")


def test_objects_and_columns_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    with pytest.raises(UsageError, match="only a pickle can hold"):
        arrays(tmp_path / "objects.npy")
    np.save(tmp_path / "columns.npy", np.asfortranarray(IMAGES))
    with pytest.raises(UsageError, match="stored by columns"):
        arrays(tmp_path / "columns.npy")


def test_a_truncated_array_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", IMAGES)
    data = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(data[:-10])
    with pytest.raises(UsageError, match=r"x.npy is truncated or damaged \(it ends too early\)"):
        prepared(arrays(tmp_path / "x.npy"), tmp_path)


@pytest.mark.parametrize(("less", "message"), [(1, "5 of 20 images of split train have no label"), (2, "number -2")])
def test_negative_classes_are_refused(tmp_path: Path, less: int, message: str) -> None:
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=LABELS - less)
    with pytest.raises(UsageError, match=message):
        arrays(tmp_path / "x.npz")
