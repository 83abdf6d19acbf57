"""Nothing of a source is dropped without a word: every file, column, array and label is used, named, or refused."""

import io
import json
import re
import shlex
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from progdistill.cli.main import main
from progdistill.data.dataset import DatasetInfo, find_dataset
from tests.data.datasets import stored
from tests.data.published import encoded, random_images, write_tar

IMAGES, _ = random_images(12, 8)
FILES = [encoded(image) for image in IMAGES]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROGDISTILL_DATA", str(tmp_path / "data"))


class Prepared:
    """The outcome of `data prepare`."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, source: str, *options: str) -> "Prepared":
        self._capsys.readouterr()
        self.status = main(["data", "prepare", "mine", "--source", source, *options])
        captured = self._capsys.readouterr()
        self.output, self.error = captured.out, captured.err
        return self

    @property
    def info(self) -> DatasetInfo:
        assert self.status == 0, self.error
        return find_dataset("mine", Path("data"))

    @property
    def not_used(self) -> list[str]:
        assert self.status == 0, self.error
        return [line.removeprefix("not used  ") for line in self.output.splitlines() if line.startswith("not used")]


@pytest.fixture
def prepare(capsys: pytest.CaptureFixture[str]) -> Prepared:
    return Prepared(capsys)


def folder(*names: str) -> str:
    """A folder of images, each unlike the others."""
    for name, data in zip(names, FILES, strict=False):
        path = Path("set", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return "set"


def table(path: str, count: int, first: int = 0, **columns: Any) -> str:
    """A Parquet file of images."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [{"bytes": data} for data in FILES[first : first + count]], **columns}), path)
    return "set"


def labels(info: DatasetInfo, split: str = "train") -> list[str]:
    """The class of each of the images, in the order of FILES."""
    number = {image.tobytes(): index for index, image in enumerate(IMAGES)}
    found = sorted((number[data], info.class_names[label]) for label, data in stored(info, split))
    return [name for _, name in found]


@pytest.mark.parametrize("form", ["folder", "tar", "tar.gz", "zip"])
def test_hidden_folders_and_files_are_no_classes_in_any_layout(prepare: Prepared, form: str) -> None:
    hidden = (".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/a/._0.png", "a/.0.png", "a/Thumbs.db")
    source = Path(folder("a/0.png", "b/1.png", *hidden))
    files = {f"{path}": path.read_bytes() for path in sorted(source.rglob("*")) if path.is_file()}
    if form == "zip":
        with zipfile.ZipFile("set.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    elif form != "folder":
        write_tar(Path(f"set.{form}"), files, "w:gz" if form.endswith("gz") else "w")
    result = prepare("set" if form == "folder" else f"set.{form}")
    assert labels(result.info) == ["a", "b"]
    assert len(result.not_used) == 1 and result.not_used[0].startswith("hidden (4): ")


def test_a_flat_folder_may_have_hidden_folders(prepare: Prepared) -> None:
    result = prepare(folder("0.png", ".ipynb_checkpoints/0-checkpoint.png"))
    assert (result.info.splits, result.not_used) == ({"train": 1}, ["hidden (1): .ipynb_checkpoints"])


FORMATS = {"b.jfif": "JPEG", "c.jpe": "JPEG", "d.avif": "AVIF", "e.jp2": "JPEG2000", "f.tga": "TGA", "g.apng": "PNG"}


def test_images_are_known_by_their_contents(prepare: Prepared) -> None:
    folder("a.PNG", "no_ending", "wrong.dat")
    for name, kind in FORMATS.items():
        Image.fromarray(IMAGES[0]).save(Path("set", name), format=kind)
    assert (prepare("set").info.splits, prepare("set").not_used) == ({"train": 9}, [])


def test_what_is_no_image_is_named_with_what_to_do(prepare: Prepared) -> None:
    folder("a.png")
    others = {
        "i.HEIC": b"\0\0\0\x18ftypheic",
        "j.eps": b"%!PS-Adobe-3.0",
        "k.svg": b"<svg></svg>",
        "README.md": b"x",
        "COPYING.md": b"y",
        "more.zip": b"PK\3\4",
        "empty": b"",
    }
    for name, data in others.items():
        Path("set", name).write_bytes(data)
    assert sorted(prepare("set").not_used) == [
        "HEIC: convert it to JPEG or PNG (1): i.HEIC",
        "PostScript, which is a program: convert it to PNG (1): j.eps",
        "SVG: draw it as PNG (1): k.svg",
        "an archive beside images: unpack it, or give it alone as --source (1): more.zip",
        "empty: copy or download it again (1): empty",
        "no image (.md) (2): COPYING.md, README.md",
    ]


def test_postscript_under_an_images_name_is_not_run(prepare: Prepared) -> None:
    folder("a.png")
    page = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(touched) (w) file closefile\nshowpage\n%%EOF\n"
    Path("set/b.png").write_text(page)
    result = prepare("set")
    assert result.not_used == ["unreadable (1): b.png"]
    assert "skipped b.png: PostScript, which is a program: convert it to PNG" in result.error
    assert not Path("touched").exists()


def test_pointers_of_git_lfs_are_called_so(prepare: Prepared) -> None:
    folder("a.png")
    Path("set/b.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "skipped b.png: a pointer of Git LFS, not the file: get the files with git lfs pull" in prepare("set").error


@pytest.mark.parametrize("name", ["x.tar", "x.parquet", "x.npz", "x.zip", "x", "set/x.parquet"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS, not the file: get the files with"),
        (b"<!DOCTYPE html><title>403</title>", "is a web page, such as an error instead of a download: download it"),
        (b"", "is empty: copy or download it again"),
    ],
)
def test_what_came_instead_of_a_file_is_named(prepare: Prepared, name: str, data: bytes, message: str) -> None:
    Path("set").mkdir()
    Path(name).write_bytes(data)
    refused = prepare(name.removesuffix("/x.parquet"))
    assert refused.status == 2 and message in refused.error


@pytest.mark.parametrize("name", ["download", "x.tar"])
def test_archives_are_known_by_their_contents(prepare: Prepared, name: str) -> None:
    with zipfile.ZipFile(name, "w") as archive:
        archive.writestr("set/a/1.png", FILES[0])
        archive.writestr("set/b/2.png", FILES[1])
    assert labels(prepare(name).info) == ["a", "b"]


def test_a_folder_around_all_images_of_an_archive_is_no_class(prepare: Prepared) -> None:
    write_tar(Path("x.tar"), {"set/1.png": FILES[0], "set/2.png": FILES[1]})
    assert prepare("x.tar").info.num_classes == 0


def test_a_prepared_dataset_is_no_source(prepare: Prepared) -> None:
    assert prepare(folder("a.png")).status == 0
    assert "data/mine is a prepared dataset: use it with --dataset data/mine" in prepare("data/mine").error


def test_many_of_a_kind_are_counted(prepare: Prepared) -> None:
    folder("a.png")
    for number in range(7):
        Path(f"set/{number}.csv").write_text("x")
    assert prepare("set").not_used == ["no image (.csv) (7): 0.csv, 1.csv, 2.csv, …"]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("plain_text/cifar10-train.parquet", "plain_text/cifar10-test.parquet"),
        ("default/partial-train/0000.parquet", "default/partial-test/0000.parquet"),
        ("Train-00000.parquet", "Test-00000.parquet"),
        ("train-0.parquet", "eval-0.parquet"),
        ("training/0.parquet", "testing/0.parquet"),
        ("split=train/0.parquet", "split=test/0.parquet"),
        ("TRAIN_0.parquet", "TEST_0.parquet"),
    ],
)
def test_test_images_of_tables_are_never_trained_on(prepare: Prepared, train: str, test: str) -> None:
    table(f"set/{train}", 4)
    table(f"set/{test}", 2, first=4)
    info = prepare("set").info
    assert info.splits == {"train": 4, "test": 2}
    assert stored(info, "test") == sorted((0, image.tobytes()) for image in IMAGES[4:6])


@pytest.mark.parametrize("word", ["dev", "val", "valid", "Validation"])
def test_validation_has_several_names(prepare: Prepared, word: str) -> None:
    table("set/train-0.parquet", 2)
    table(f"set/{word}-0.parquet", 1, first=2)
    assert prepare("set").info.splits == {"train": 2, "validation": 1}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train/a/1.png", "Test/a/2.png"),
        ("x/train/a/1.png", "x/test/a/2.png"),
        ("train-images/1.png", "test-images/2.png"),
        ("trainA/1.png", "testA/2.png"),
        ("train_1.png", "test_2.png"),
        ("train/train/1.png", "test/train/2.png"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_test_images_in_files_are_never_trained_on(prepare: Prepared, train: str, test: str, packed: bool) -> None:
    folder(train, test)
    if packed:
        files = {str(path.relative_to("set")): path.read_bytes() for path in Path("set").rglob("*.png")}
        write_tar(Path("set.tar"), dict(sorted(files.items())))
    info = prepare("set.tar" if packed else "set").info
    assert info.splits == {"train": 1, "test": 1}
    assert stored(info, "test") == [(0, IMAGES[1].tobytes())]


def test_a_split_that_cannot_be_told_is_asked_about_and_the_answer_works(prepare: Prepared) -> None:
    table("set/train-0.parquet", 4)
    table("set/holdout/more-0.parquet", 2, first=4)
    refused = prepare("set")
    assert refused.status == 2
    assert "the split of holdout/more-0.parquet is unclear, while other files are of train" in refused.error
    assert prepare("set", "--split", "test=holdout/more-0.parquet").info.splits == {"train": 4, "test": 2}


@pytest.mark.parametrize(
    ("option", "splits"),
    [
        ("test=holdout/*", {"train": 1, "test": 1}),
        ("test=holdout", {"train": 1, "test": 1}),
        ("none=holdout/*", {"train": 1}),
        ("train", {"train": 2}),
    ],
)
def test_the_split_of_a_folder_can_be_said(prepare: Prepared, option: str, splits: dict[str, int]) -> None:
    folder("train/a/1.png", "holdout/a/2.png")
    assert "the split of holdout/ is unclear" in prepare("set").error
    assert prepare("set", "--split", option).info.splits == splits


@pytest.mark.parametrize(
    "names",
    [
        ("train/a/1.png", "mo[r]e 'x' $HOME/a/2.png"),
        ("train/a/1.png", "more/a/2.png", "more/b/3.png", "train/b/4.png"),
        ("a/1.png", "b/2.png", "test/a/3.png"),
        ("val/a/1.png", "valid/a/2.png", "train/a/3.png"),
        ("trainA/1.png", "trainB/2.png"),
        ("train/a/1.png", "test/2.png"),
        ("train_test/1.png", "train/2.png"),
    ],
)
def test_the_options_that_a_message_proposes_work(prepare: Prepared, names: tuple[str, ...]) -> None:
    source = folder(*names)
    refused = prepare(source)
    assert refused.status == 2
    proposed = refused.error[refused.error.index("--split") :]
    proposed = re.split(r" \(or |; |, or |\n", proposed)[0]
    options = shlex.split(proposed)
    assert options[::2] == ["--split"] * (len(options) // 2)
    assert prepare(source, *options).status == 0, prepare(source, *options).error


def test_only_test_files_are_not_taken_for_training_files(prepare: Prepared) -> None:
    table("cifar10-test.parquet", 2)
    refused = prepare("cifar10-test.parquet")
    assert refused.status == 2 and "but none of train" in refused.error and "--split train" in refused.error
    assert prepare("cifar10-test.parquet", "--split", "train").info.splits == {"train": 2}


@pytest.mark.parametrize("name", ["label", "labels", "Label", "target", "targets", "category", "cls", "fine_label"])
def test_labels_of_tables_have_many_names(prepare: Prepared, name: str) -> None:
    result = prepare(table("set/x.parquet", 4, **{name: [0, 1, 0, 1], "caption": ["a"] * 4}))
    assert labels(result.info) == ["0", "1", "0", "1"]
    assert f"classes   2, from column {name}" in result.output and result.not_used == ["column (1): caption"]


def test_labels_are_in_names_of_folders_of_hive(prepare: Prepared) -> None:
    table("set/label=dog/part-0.parquet", 2)
    table("set/label=big%20cat/part-0.parquet", 2, first=2)
    assert labels(prepare("set").info) == ["dog", "dog", "big cat", "big cat"]


ARRAYS = [
    ({"images": IMAGES[:4], "label": [0, 1, 0, 1]}, []),
    ({"data": IMAGES[:4], "targets": [0, 1, 0, 1], "mean": [1.0]}, ["array (1): mean"]),
    ({"x_train": IMAGES[:4], "t_train": [0, 1, 0, 1]}, []),
    ({"train_images": IMAGES[:4], "train_category": [0, 1, 0, 1], "ids": [5]}, ["array (1): ids"]),
]


@pytest.mark.parametrize(("arrays", "not_used"), ARRAYS)
def test_labels_of_arrays_have_many_names(prepare: Prepared, arrays: dict[str, Any], not_used: list[str]) -> None:
    np.savez("x.npz", **{name: np.asarray(values) for name, values in arrays.items()})
    result = prepare("x.npz")
    assert (labels(result.info), result.not_used) == (["0", "1", "0", "1"], not_used)


def test_a_folder_of_arrays_is_read_as_one_file_of_them(prepare: Prepared) -> None:
    Path("set").mkdir()
    values = {"x_train": IMAGES[:4], "y_train": [0, 1, 0, 1], "x_test": IMAGES[4:6], "y_test": [1, 0], "mean": [1.0]}
    for name, array in values.items():
        np.save(f"set/{name}.npy", np.asarray(array))
    Path("set/readme.txt").write_text("x")
    result = prepare("set")
    assert (labels(result.info), labels(result.info, "test")) == (["0", "1", "0", "1"], ["1", "0"])
    assert result.not_used == ["no array (1): readme.txt", "array (1): mean"]


def test_every_split_of_arrays_is_used(prepare: Prepared) -> None:
    parts = {"train": IMAGES[:6], "val": IMAGES[6:9], "test": IMAGES[9:]}
    arrays = {f"{name}_images": images for name, images in parts.items()}
    np.savez("x.npz", **arrays, **{f"{name}_labels": np.zeros(len(part), int) for name, part in parts.items()})
    assert prepare("x.npz").info.splits == {"train": 6, "test": 3, "validation": 3}


def shard(path: str, first: int, label: str = "cls") -> None:
    """A shard as webdataset writes it: four images with their classes and captions."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    files = {}
    for number in range(first, first + 4):
        value = str(number % 2) if label == "cls" else json.dumps({"label": "ab"[number % 2], "width": 8})
        files |= {
            f"{number:03d}.{label}": value.encode(),
            f"{number:03d}.png": FILES[number],
            f"{number:03d}.txt": b"x",
        }
    write_tar(Path(path), files)


def test_a_shard_of_webdataset_has_labels(prepare: Prepared) -> None:
    shard("x.tar", 0)
    result = prepare("x.tar")
    assert labels(result.info) == ["0", "1", "0", "1"]
    assert result.not_used == ["file beside an image (.txt) (4): 000.txt, 001.txt, 002.txt, …"]


def test_labels_in_json_are_read_and_other_fields_named(prepare: Prepared) -> None:
    shard("x.tar", 0, "json")
    result = prepare("x.tar")
    assert labels(result.info) == ["a", "b", "a", "b"]
    assert "field (1): width (json)" in result.not_used


@pytest.mark.parametrize("source", ["shards", "shards/train-{000..001}.tar", "shards/{train-000,train-001}.tar"])
def test_several_shards_are_one_dataset(prepare: Prepared, source: str) -> None:
    shard("shards/train-000.tar", 0)
    shard("shards/train-001.tar", 4)
    shard("shards/test-000.tar", 8)
    info = prepare(source).info
    assert labels(info) == ["0", "1"] * 4
    assert info.splits == ({"train": 8, "test": 4} if source == "shards" else {"train": 8})


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_labels_beside_images_are_those_of_the_table(prepare: Prepared, name: str) -> None:
    folder("1.png", "deep/2.png")
    rows = [("1.png", "cat"), ("deep/2.png", "dog"), ("gone.png", "cat")]
    if name.endswith("csv"):
        text = "file_name,label,text\n" + "".join(f"{file},{label},hello\n" for file, label in rows)
    else:
        text = "".join(json.dumps({"file_name": file, "label": label, "text": "hi"}) + "\n" for file, label in rows)
    Path("set", name).write_text(text)
    result = prepare("set")
    assert labels(result.info) == ["cat", "dog"]
    assert f"classes   2, from column label of {name}" in result.output
    assert f"column of {name} (1): text" in result.not_used
    assert "row of metadata whose image is not there (1): gone.png" in result.not_used


def test_an_image_that_the_table_lacks_is_named(prepare: Prepared) -> None:
    folder("1.png", "2.png")
    Path("set/metadata.csv").write_text("file_name,label\n1.png,cat\n")
    refused = prepare("set")
    assert refused.status == 2 and "1 images are not in metadata.csv, the first is 2.png" in refused.error


@pytest.mark.parametrize("hidden", [[-1, -1], [None, None]])
def test_hidden_labels_of_a_test_are_said_and_the_advice_works(prepare: Prepared, hidden: list[int | None]) -> None:
    table("set/train-0.parquet", 4, label=[0, 1, 0, 1])
    table("set/test-0.parquet", 2, first=4, label=pa.array(hidden, pa.int64()))
    refused = prepare("set")
    assert refused.status == 2
    assert "all labels of split test are hidden (-1 or null)" in refused.error
    assert "--split none=test-0.parquet" in refused.error
    assert prepare("set", "--split", "none=test-0.parquet").info.splits == {"train": 4}


@pytest.mark.parametrize("values", [[0.0, 1.0], [False, True], pa.array(["a", "b"]).dictionary_encode()])
def test_labels_may_have_other_types(prepare: Prepared, values: Any) -> None:
    assert prepare(table("set/x.parquet", 2, label=values)).info.num_classes == 2


def test_labels_that_are_all_hidden_are_no_classes(prepare: Prepared) -> None:
    result = prepare(table("set/x.parquet", 4, label=[-1] * 4))
    assert result.info.num_classes == 0
    assert result.not_used == ["labels that are all hidden (-1 or null) (1): column label"]


def save_to_disk(path: str, images: list[bytes], as_file: bool = False) -> None:
    """A split as `datasets.Dataset.save_to_disk` writes it."""
    names = {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}}
    data = pa.table({"image": [{"bytes": image, "path": None} for image in images], "label": [0, 1] * 2})
    data = data.replace_schema_metadata({"huggingface": json.dumps({"info": names})})
    Path(path).mkdir(parents=True)
    new = pa.ipc.new_file if as_file else pa.ipc.new_stream
    with new(f"{path}/data-00000-of-00001.arrow", data.schema) as writer:
        writer.write_table(data, max_chunksize=3)
    Path(path, "state.json").write_text("{}")


@pytest.mark.parametrize("as_file", [False, True])
def test_folders_of_save_to_disk_are_read(prepare: Prepared, as_file: bool) -> None:
    save_to_disk("set/train", FILES[:4], as_file)
    save_to_disk("set/test", FILES[4:8], as_file)
    Path("set/dataset_dict.json").write_text("{}")
    result = prepare("set")
    assert result.info.splits == {"train": 4, "test": 4}
    assert labels(result.info) == labels(result.info, "test") == ["cat", "dog"] * 2
    assert result.not_used == [
        "file beside the tables (.json) (3): dataset_dict.json, test/state.json, train/state.json"
    ]


def test_images_beside_tables_are_named(prepare: Prepared) -> None:
    folder("a.png")
    assert prepare(table("set/x.parquet", 2)).not_used == ["file beside the tables (.png) (1): a.png"]


def test_links_in_archives_are_named(prepare: Prepared) -> None:
    with tarfile.open("x.tar", "w") as archive:
        for name, target in (("a/1.png", ""), ("a/2.png", "/etc/passwd"), ("a/3.png", "../../x.png")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = (tarfile.SYMTYPE, target) if target else (tarfile.REGTYPE, "")
            member.size = 0 if target else len(FILES[0])
            archive.addfile(member, io.BytesIO(FILES[0]))
    assert prepare("x.tar").not_used == ["link in an archive (2): a/2.png, a/3.png"]


def test_the_account_is_kept_with_the_dataset(prepare: Prepared, capsys: pytest.CaptureFixture[str]) -> None:
    folder("a.png", ".hidden.png")
    prepare("set")
    assert main(["data", "info", "mine"]) == 0
    assert "not used     hidden (1): .hidden.png" in capsys.readouterr().out
