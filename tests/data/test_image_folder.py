"""Users' folders of images, and folders that are refused."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from progdistill.data.preprocess import Preprocessing
from progdistill.data.source import Source
from progdistill.errors import UsageError
from tests.data.datasets import image_folder, prepared, rows, stored
from tests.data.published import encoded, random_images

AS_THEY_ARE = Preprocessing(image_size=None)


def folder(path: Path, rule: Preprocessing = AS_THEY_ARE, choices: Sequence[str] = ()) -> Source:
    return image_folder(path, rule, choices=choices)


def write(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


IMAGES, LABELS = random_images(12, 16, classes=3)
CLASSED = {
    f"{'abc'[label]}/{number}.png": encoded(image)
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True))
}


def test_subfolders_are_classes(tmp_path: Path) -> None:
    info = prepared(folder(write(tmp_path / "cats", CLASSED)), tmp_path)
    assert info.class_names == ("a", "b", "c")
    assert info.image_size == 16
    assert stored(info) == rows(IMAGES, LABELS)


def test_images_without_subfolders_have_no_classes(tmp_path: Path) -> None:
    flat = {name.replace("/", "_"): data for name, data in CLASSED.items()}
    info = prepared(folder(write(tmp_path / "cats", flat)), tmp_path)
    assert info.num_classes == 0
    assert stored(info) == rows(IMAGES, LABELS * 0)


def test_split_folders_are_splits(tmp_path: Path) -> None:
    files = {f"train/{name}": data for name, data in CLASSED.items()}
    files |= {f"val/a/{number}.png": encoded(image) for number, image in enumerate(IMAGES[:5])}
    info = prepared(folder(write(tmp_path / "cats", files)), tmp_path)
    assert info.splits == {"train": 12, "validation": 5}
    assert stored(info, "validation") == rows(IMAGES[:5], LABELS[:5] * 0)


def test_the_fingerprint_depends_on_contents_alone(tmp_path: Path) -> None:
    first = prepared(folder(write(tmp_path / "one", CLASSED)), tmp_path, "first")
    reordered = dict(reversed(CLASSED.items())) | {"a/notes.txt": b"not an image", "a/.hidden.png": b"x"}
    second = prepared(folder(write(tmp_path / "two", reordered)), tmp_path, "second")
    changed = write(tmp_path / "three", CLASSED | {"a/new.png": encoded(IMAGES[0])})
    third = prepared(folder(changed), tmp_path, "third")
    assert first.fingerprint == second.fingerprint != third.fingerprint


def test_mixed_shapes_ask_for_an_image_size(tmp_path: Path) -> None:
    other = {"c/other.png": encoded(np.zeros((20, 24, 3), np.uint8))}
    path = write(tmp_path / "cats", CLASSED | other)
    with pytest.raises(UsageError, match=r"c/other.png is 24×20, .* 16×16: .*--image-size N"):
        prepared(folder(path), tmp_path)
    info = prepared(folder(path, Preprocessing(image_size=8)), tmp_path, "resized")
    assert (info.image_size, info.splits) == (8, {"train": 13})


def test_images_that_are_no_squares_ask_for_an_image_size(tmp_path: Path) -> None:
    path = write(tmp_path / "wide", {"1.png": encoded(np.zeros((8, 12, 3), np.uint8))})
    with pytest.raises(UsageError, match=r"1.png is 12×8: make all images square with --image-size N"):
        folder(path)


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{tmp_path} has no images"):
        folder(write(tmp_path, {"readme.txt": b"nothing"}))


def test_images_beside_class_folders_are_ambiguous(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="beside the class folders a, b, c"):
        folder(write(tmp_path, CLASSED | {"stray.png": encoded(IMAGES[0])}))


def test_a_class_that_training_lacks_is_named(tmp_path: Path) -> None:
    files = {f"train/{name}": data for name, data in CLASSED.items()}
    with pytest.raises(UsageError, match="class zebra of split validation"):
        folder(write(tmp_path, files | {"val/zebra/1.png": encoded(IMAGES[0])}))


def test_files_that_are_no_images_are_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = {"a/broken.png": b"not a png", "b/cut.png": CLASSED["b/" + _first("b")][:-40]}
    info = prepared(folder(write(tmp_path / "cats", CLASSED | broken)), tmp_path)
    assert info.splits == {"train": 12}
    assert stored(info) == rows(IMAGES, LABELS)
    output = capsys.readouterr().err
    assert "skipped a/broken.png" in output and "skipped b/cut.png" in output


def test_links_that_lead_nowhere_and_what_is_no_file_are_left_out_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "cats", CLASSED)
    (path / "a" / "dangling.png").symlink_to("nowhere.png")
    (path / "a" / "loop.png").symlink_to("loop.png")
    (path / "d").symlink_to("d")
    os.mkfifo(path / "b" / "pipe.png")
    info = prepared(folder(path), tmp_path)
    assert stored(info) == rows(IMAGES, LABELS)
    output = capsys.readouterr().err
    assert "skipped a/dangling.png: No such file" in output and "skipped b/pipe.png: it is not a file" in output
    assert "skipped a/loop.png: Too many levels" in output


def test_names_of_images_need_not_be_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = {"a/odd\udcff.png": encoded(IMAGES[0]), "a/broken\udcff.png": b"not a png"}
    info = prepared(folder(write(tmp_path / "cats\udcff", CLASSED | odd)), tmp_path)
    assert stored(info) == rows(np.concatenate([IMAGES, IMAGES[:1]]), np.append(LABELS, 0))
    assert "skipped a/broken\\xff.png" in capsys.readouterr().err


def test_names_of_classes_must_be_utf8(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a class whose name is not UTF-8, b\\xff: rename"):
        folder(write(tmp_path, CLASSED | {"b\udcff/1.png": encoded(IMAGES[0])}))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("a/1.png", "a/deep/2.png"), "a/deep has images that would be left out, such as 2.png: move them"),
        (("a/1.png", "b/deep/2.png"), "b/deep has images that would be left out"),
        (("train/a/1.png", "2.png"), "the split of 2.png is unclear, while other files are of train: say it with"),
        (("train/1.png", "more/2.png"), r"the split of more/ is unclear, .* --split train='more/\*'"),
        (("train/1.png", "more/test/2.png", "more/3.png"), "the split of more/ is unclear, .* test, train"),
        (("train/a/1.png", "test/2.png"), "cats/test has images that would be left out"),
        (("train/1.png", "val/1.png", "valid/2.png"), "two folders for split validation, val and valid"),
        (("val/1.png", "test/2.png"), "files of splits .test, validation: test/, val/., but none of train"),
        (("trainA/1.png", "trainB/1.png"), "two folders for split train, trainA and trainB"),
        (("train_test/1.png",), "train_test/ could be of test and train, by its names: say which with --split"),
    ],
)
def test_a_folder_of_which_images_would_be_left_out_is_refused(
    tmp_path: Path, files: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        folder(write(tmp_path / "cats", dict.fromkeys(files, encoded(IMAGES[0]))))


def test_hidden_folders_and_links_to_other_folders_do_not_count(tmp_path: Path) -> None:
    path = write(tmp_path / "cats", CLASSED | {"a/.thumbnails/1.png": b"x", "notes/readme.txt": b"x"})
    (path / "a" / "again").symlink_to(path)
    assert folder(path).facts.splits == {"train": 12}


def test_images_below_a_class_folder_that_is_a_link_are_noticed(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", {"1.png": encoded(IMAGES[0]), "deep/2.png": encoded(IMAGES[1])})
    path = write(tmp_path / "cats", CLASSED)
    (path / "d").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="cats/d/deep has images that would be left out"):
        folder(path)


def test_a_class_that_is_called_like_a_split_is_asked_about(tmp_path: Path) -> None:
    path = write(tmp_path, CLASSED | {"test/1.png": encoded(IMAGES[0])})
    with pytest.raises(UsageError, match="is unclear, while other files are of test: .* with --split train$"):
        folder(path)
    assert folder(path, choices=("train",)).facts.class_names == ("a", "b", "c", "test")


def _first(name: str) -> str:
    return next(path for path in CLASSED if path.startswith(name)).partition("/")[2]
