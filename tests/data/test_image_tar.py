"""Users' tars of images."""

from pathlib import Path

import numpy as np
import pytest

from progdistill.data.importers.registry import open_source
from progdistill.data.preprocess import Preprocessing
from progdistill.data.source import Source
from progdistill.errors import UsageError
from tests.data.datasets import prepared, rows, stored
from tests.data.published import encoded, random_images, tar_bytes, write_tar

IMAGES, _ = random_images(3, 8)
FILES = [encoded(image) for image in IMAGES]


def packed(path: Path, files: dict[str, bytes]) -> Source:
    write_tar(path, files)
    return open_source("mine", path, Preprocessing(image_size=None), horizontal_flip_safe=True, unverified=False)


def test_names_of_images_need_not_be_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("a/1.png", "b/1.png", "b/odd\udcff.png", "b/broken\udcff.png")
    source = packed(tmp_path / "x\udcff.tar", dict(zip(names, [*FILES, b"not a png"], strict=True)))
    assert stored(prepared(source, tmp_path)) == rows(IMAGES, np.array([0, 1, 1]))
    assert "skipped b/broken\\xff.png" in capsys.readouterr().err


def test_names_of_classes_must_be_utf8(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"x.tar has a class whose name is not UTF-8, b\\xff: rename"):
        packed(tmp_path / "x.tar", {"a/1.png": FILES[0], "b\udcff/1.png": FILES[1]})


@pytest.mark.parametrize(
    "files",
    [
        {"x/train/a/1.png": FILES[0], "x/test/a/1.png": FILES[1]},
        {"train/1.png": FILES[0], "test/1.png": FILES[1]},
        {"train.tar": tar_bytes({"1.png": FILES[0]}), "test.tar": tar_bytes({"1.png": FILES[1]})},
    ],
)
def test_one_archive_may_have_several_splits(tmp_path: Path, files: dict[str, bytes]) -> None:
    info = prepared(packed(tmp_path / "x.tar", files), tmp_path)
    assert (stored(info), stored(info, "test")) == (rows(IMAGES[:1], np.zeros(1)), rows(IMAGES[1:2], np.zeros(1)))


def test_a_folder_train_alone_is_the_training_split(tmp_path: Path) -> None:
    source = packed(tmp_path / "x.tar", {"train/a/1.png": FILES[0], "train/b/1.png": FILES[1]})
    assert source.facts.class_names == ("a", "b")
