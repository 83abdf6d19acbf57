"""Parquet as the Hugging Face library lays it out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from progdistill.data.importers.parquet import ParquetSource
from progdistill.data.preprocess import Preprocessing
from progdistill.data.source import Source
from progdistill.errors import UsageError
from tests.data.datasets import prepared, rows, stored
from tests.data.published import encoded, huggingface_parquet, random_images

IMAGES, LABELS = random_images(250, 8, classes=3)
FILES = [encoded(image) for image in IMAGES]
NAMES = ("cat", "dog", "owl")


def parquet(path: Path) -> Source:
    return ParquetSource(path, Preprocessing(image_size=None), horizontal_flip_safe=True)


def test_files_called_after_their_split_are_read_in_order(tmp_path: Path) -> None:
    data = tmp_path / "source" / "data"
    huggingface_parquet(data / "train-00000-of-00002.parquet", FILES[:130], LABELS[:130], NAMES)
    huggingface_parquet(data / "train-00001-of-00002.parquet", FILES[130:240], LABELS[130:240], NAMES)
    huggingface_parquet(data / "test-00000-of-00001.parquet", FILES[240:], LABELS[240:], NAMES)
    info = prepared(parquet(tmp_path / "source"), tmp_path)
    assert info.splits == {"train": 240, "test": 10}
    assert info.class_names == NAMES
    assert stored(info) == rows(IMAGES[:240], LABELS[:240])
    assert stored(info, "test") == rows(IMAGES[240:], LABELS[240:])


def test_folders_called_after_their_split_are_splits(tmp_path: Path) -> None:
    huggingface_parquet(tmp_path / "default/train/0000.parquet", FILES[:20], LABELS[:20], NAMES)
    huggingface_parquet(tmp_path / "default/validation/0000.parquet", FILES[20:30], LABELS[20:30], NAMES)
    assert parquet(tmp_path).facts.splits == {"train": 20, "validation": 10}


def test_reading_goes_on_anywhere(tmp_path: Path) -> None:
    huggingface_parquet(tmp_path / "train-0.parquet", FILES[:100], LABELS[:100], NAMES, rows_per_group=30)
    huggingface_parquet(tmp_path / "train-1.parquet", FILES[100:], LABELS[100:], NAMES, rows_per_group=70)
    source = parquet(tmp_path)
    whole = [(image.name, image.label) for image in source.read("train", 0)]
    assert [label for _, label in whole] == LABELS.tolist()
    for start in (0, 1, 29, 30, 31, 99, 100, 101, 249, 250):
        assert [(image.name, image.label) for image in source.read("train", start)] == whole[start:]


def test_classes_without_names_are_numbered(tmp_path: Path) -> None:
    image = pa.array([{"bytes": data, "path": None} for data in FILES[:9]])
    table = pa.table({"img": image, "label": pa.array([0, 4, 2] * 3)})
    pq.write_table(table, tmp_path / "x.parquet")
    assert parquet(tmp_path).facts.class_names == ("0", "1", "2", "3", "4")


def test_images_without_a_class_column_have_no_classes(tmp_path: Path) -> None:
    image = pa.array([{"bytes": data, "path": None} for data in FILES[:9]])
    pq.write_table(pa.table({"image": image}), tmp_path / "x.parquet")
    assert stored(prepared(parquet(tmp_path), tmp_path)) == rows(IMAGES[:9], LABELS[:9] * 0)


def test_a_file_without_images_is_named_with_its_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(UsageError, match="0 image columns among text"):
        parquet(tmp_path)


def test_classes_may_be_names(tmp_path: Path) -> None:
    pq.write_table(table(FILES[:3], label=["owl", "cat", "owl"]), tmp_path / "x.parquet")
    info = prepared(parquet(tmp_path), tmp_path)
    assert info.class_names == ("cat", "owl")
    assert stored(info) == rows(IMAGES[:3], np.array([1, 0, 1]))


def test_classes_that_are_neither_numbers_nor_names_are_refused(tmp_path: Path) -> None:
    pq.write_table(table(FILES[:1], label=[[0, 1]]), tmp_path / "x.parquet")
    with pytest.raises(UsageError, match=r"column label holds list<.*int64>, not class numbers"):
        parquet(tmp_path)


def test_rows_without_bytes_are_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    huggingface_parquet(tmp_path / "x.parquet", [*FILES[:3], None], np.zeros(4, int), NAMES)  # type: ignore[list-item]
    info = prepared(parquet(tmp_path), tmp_path)
    assert info.splits == {"train": 3}
    assert "skipped x.parquet[3]: it has no bytes, only a path" in capsys.readouterr().err


def table(images: Any = FILES[:6], **columns: Any) -> pa.Table:
    """Encoded images in structs, beside other columns."""
    return pa.table({"image": [{"bytes": data} for data in images], **columns})


def described(table: pa.Table, metadata: str) -> pa.Table:
    """The table with what the library `datasets` would say of it."""
    return table.replace_schema_metadata({"huggingface": metadata})


def classes_called(*names: str) -> str:
    return json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}})


LABELED = table(label=[0, 1] * 3)


@pytest.mark.parametrize(
    ("name", "other", "message"),
    [
        ("test-0", table(), "test-0.parquet has no column label, which .*train-0.parquet has: add it, or move"),
        ("test-0", LABELED.rename_columns(["img", "label"]), "test-0.parquet has no column image, which"),
        ("train-1", table(label=["cat"] * 6), "train-1.parquet: column label holds string, not class numbers"),
        ("train-1", pa.table({"image": ["a"], "label": [0]}), "column image holds string, not the bytes of image"),
        ("train-1", described(LABELED, classes_called("b", "a")), "class 0 of column label is 'b', but 'a' in"),
        ("test-0", pa.Table.from_arrays([*LABELED, LABELED["label"]], ["image", "label", "label"]), "has 2"),
    ],
)
def test_a_file_whose_columns_differ_from_the_first_is_named(
    tmp_path: Path, name: str, other: pa.Table, message: str
) -> None:
    pq.write_table(described(LABELED, classes_called("a", "b")), tmp_path / "train-0.parquet")
    pq.write_table(other, tmp_path / f"{name}.parquet")
    with pytest.raises(UsageError, match=message):
        parquet(tmp_path)


def test_images_may_be_stored_as_plain_bytes(tmp_path: Path) -> None:
    plain = pa.table({"image": pa.array([*FILES[:6], None]), "label": LABELS[:7]})
    metadata = json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})
    pq.write_table(described(plain, metadata), tmp_path / "x.parquet")
    assert stored(prepared(parquet(tmp_path), tmp_path)) == rows(IMAGES[:6], LABELS[:6])


@pytest.mark.parametrize(
    "metadata",
    [
        "{",
        "[1]",
        "[" * 100_000,
        '{"info": null}',
        '{"info": {"features": {"label": 1, "image": {"_type": [1]}}}}',
        '{"info": {"features": {"label": {"_type": "ClassLabel", "names": [1, null]}}}}',
        '{"info": {"features": {"label": {"_type": "ClassLabel", "names": ["a", "\\ud800"]}}}}',
        '{"info": {"features": {"removed": {"_type": "ClassLabel", "names": ["a"]}}}}',
    ],
)
def test_metadata_that_tell_nothing_are_as_good_as_none(tmp_path: Path, metadata: str) -> None:
    pq.write_table(described(LABELED, metadata), tmp_path / "x.parquet")
    assert parquet(tmp_path).facts.class_names == ("0", "1")


@pytest.mark.parametrize("number", [10**8, 2**64 - 1])
def test_ids_are_no_classes(tmp_path: Path, number: int) -> None:
    labels = pa.array([0, 1, 2, 3, 4, number], pa.uint64())
    pq.write_table(table(label=labels), tmp_path / "x.parquet")
    with pytest.raises(UsageError, match=f"column label has class number {number}, not from 0 to 999999"):
        parquet(tmp_path)


def test_a_file_whose_name_is_not_utf8_is_named(tmp_path: Path) -> None:
    pq.write_table(LABELED, tmp_path / "x.parquet")
    (tmp_path / "x.parquet").rename(tmp_path / "x\udcff.parquet")
    with pytest.raises(UsageError, match=r"x\\xff.parquet cannot be opened, .* not UTF-8: rename it"):
        parquet(tmp_path)


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "x.parquet"
    huggingface_parquet(path, FILES, LABELS, NAMES)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UsageError, match="x.parquet is truncated"):
        parquet(tmp_path)


def test_reading_holds_little_of_a_file_in_memory(tmp_path: Path) -> None:
    """A file of 20 MB in groups of 0.5 MB."""
    rows = pa.array([{"bytes": bytes([n % 256]) * 50_000} for n in range(400)])
    path = tmp_path / "train.parquet"
    table = pa.table({"image": rows})
    pq.write_table(table, path, row_group_size=10, use_dictionary=False, compression="none")
    assert path.stat().st_size > 20_000_000
    del rows, table
    before, most = pa.total_allocated_bytes(), 0
    source = ParquetSource(path, Preprocessing(image_size=8), horizontal_flip_safe=True)
    for _ in source.read("train", 0):
        most = max(most, pa.total_allocated_bytes() - before)
    assert 0 < most < 10_000_000
