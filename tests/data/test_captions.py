"""Captions from every place where people keep them; datasets of prompts or of classes alone; emoji."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from progdistill.cli.main import main
from progdistill.data.columns import captions_of
from progdistill.data.dataset import DatasetInfo, find_dataset, manifest_of
from progdistill.data.loader import TrainingLoader
from progdistill.data.reading import read_columns
from tests.data.published import encoded, random_images

IMAGES, _ = random_images(6, 16)
CAPTIONS = [f"a picture, number {number}" for number in range(6)]


@pytest.fixture(autouse=True)
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROGDISTILL_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def prepared(data_root: Path, *arguments: str) -> DatasetInfo:
    """Prepare a dataset called `mine` on the command line."""
    assert main(["data", "prepare", "mine", *arguments]) == 0
    return find_dataset("mine", data_root)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["data", "prepare", *arguments]) == 2
    return capsys.readouterr().err


def pairs(info: DatasetInfo, split: str = "train") -> list[tuple[bytes, str]]:
    """Each image with its caption."""
    rows = read_columns(info, split, info.stored_columns)
    return sorted(zip((image.tobytes() for image in rows["image"]), captions_of(rows["caption"]), strict=True))


EXPECTED = sorted((image.tobytes(), caption) for image, caption in zip(IMAGES, CAPTIONS, strict=True))


def test_captions_of_a_folder_are_in_metadata_jsonl(data_root: Path) -> None:
    Path("pets").mkdir()
    for number, image in enumerate(IMAGES):
        Path(f"pets/{number}.png").write_bytes(encoded(image))
    lines = [json.dumps({"file_name": f"{number}.png", "text": text}) for number, text in enumerate(CAPTIONS)]
    Path("pets/metadata.jsonl").write_text("\n".join(lines))
    assert pairs(prepared(data_root, "--source", "pets", "--captions", "text")) == EXPECTED


@pytest.mark.parametrize("kind", ["txt", "json"])
def test_captions_of_a_webdataset_are_beside_its_images(data_root: Path, kind: str) -> None:
    with tarfile.open("shard-000.tar", "w") as archive:
        for number, (image, caption) in enumerate(zip(IMAGES, CAPTIONS, strict=True)):
            beside = caption.encode() if kind == "txt" else json.dumps({"prompt": caption, "id": number}).encode()
            for ending, data in (("png", encoded(image)), (kind, beside)):
                member = tarfile.TarInfo(f"{number:06d}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    info = prepared(data_root, "--source", "shard-000.tar", "--captions", "txt" if kind == "txt" else "prompt")
    assert pairs(info) == EXPECTED


def test_captions_of_parquet_are_a_column(data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"image": [{"bytes": encoded(image), "path": None} for image in IMAGES], "text": CAPTIONS}
    pq.write_table(pa.table(rows), "train.parquet", row_group_size=4)
    info = prepared(data_root, "--source", "train.parquet", "--captions", "text")
    assert pairs(info) == EXPECTED
    assert "column caption uint8 24" in " ".join(shown(capsys, "info", "mine").split())
    assert "no column caption of text" in refused(capsys, "other", "--source", "train.parquet", "--captions", "caption")


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["data", *arguments]) == 0
    return capsys.readouterr().out


def test_without_the_option_nothing_changes(data_root: Path) -> None:
    rows = {"image": [{"bytes": encoded(image), "path": None} for image in IMAGES], "text": CAPTIONS}
    pq.write_table(pa.table(rows), "train.parquet")
    assert prepared(data_root, "--source", "train.parquet").columns == ()


def test_an_image_without_a_caption_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pets").mkdir()
    for number, image in enumerate(IMAGES[:2]):
        Path(f"pets/{number}.png").write_bytes(encoded(image))
    Path("pets/0.txt").write_text("the first")
    assert "1.png has no caption 'txt'" in refused(capsys, "mine", "--source", "pets", "--captions", "txt")
    assert "pets has no captions 'text'" in refused(capsys, "mine", "--source", "pets", "--captions", "text")


def test_prompts_alone_make_a_dataset(data_root: Path) -> None:
    Path("prompts.txt").write_text("a cat\n\n  a dog \nnaïve art\n")
    info = prepared(data_root, "--source", "prompts.txt")
    rows = read_columns(info, "train", info.stored_columns)
    assert sorted(captions_of(rows["caption"])) == ["a cat", "a dog", "naïve art"]
    assert (info.sample_shape, info.num_classes, info.splits) == (None, 0, {"train": 3})


def test_classes_alone_make_a_dataset(data_root: Path) -> None:
    info = prepared(data_root, "--classes", "10")
    x, conditioning = TrainingLoader(info, batch_size=10, seed=0, flip=False).batch(0)
    assert x is None and sorted(conditioning["label"].tolist()) == list(range(10))
    assert (info.num_classes, info.sample_shape) == (10, None)


def emoji_package(path: Path, count: int) -> list[str]:
    """A package in the format of emoji-datasource-google with one image in a transparent color each; the codes."""
    listed: list[dict[str, Any]] = []
    images = {}
    for number in range(count):
        code = f"{0x1F400 + number:X}"
        entry = {"name": f"ANIMAL {number}", "unified": code, "image": f"{code.lower()}.png"}
        entry |= {"category": "Animals & Nature" if number % 2 else "Food & Drink", "subcategory": f"kind-{number % 3}"}
        if number == 0:
            variation = {"unified": f"{code}-1F3FD", "image": f"{code.lower()}-1f3fd.png"}
            entry["skin_variations"] = {"1F3FD": variation}
            images[variation["image"]] = rgba(200)
        listed.append(entry)
        images[entry["image"]] = rgba(number)
    with tarfile.open(path, "w:gz") as archive:
        files = {f"package/img/google/64/{name}": data for name, data in images.items()}
        for name, data in {"package/emoji.json": json.dumps(listed).encode(), **files}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return [entry["unified"] for entry in listed]


def rgba(value: int) -> bytes:
    """64×64: the upper half opaque gray, the lower half transparent."""
    from PIL import Image

    pixels = np.full((64, 64, 4), value, np.uint8)
    pixels[:32, :, 3], pixels[32:, :, 3] = 255, 0
    file = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(file, format="PNG")
    return file.getvalue()


def test_emoji_are_on_white_with_names_categories_and_a_stable_split(
    data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import hashlib

    codes = emoji_package(Path("emoji.tgz"), 40)
    assert "emoji.tgz is not the published emoji-datasource-google-16.0.0.tgz: its SHA-1 is" in refused(
        capsys, "emoji", "--source", "emoji.tgz"
    )
    assert main(["data", "prepare", "emoji", "--source", "emoji.tgz", "--image-size", "16", "--unverified"]) == 0
    info = find_dataset("emoji", data_root)
    assert (info.image_size, info.class_names) == (16, ("Animals & Nature", "Food & Drink"))
    found = {}
    for split in info.splits:
        rows = read_columns(info, split, info.stored_columns)
        for image, caption, label in zip(rows["image"], captions_of(rows["caption"]), rows["label"], strict=True):
            assert (image[8:] == 255).all()
            found[caption] = (split, int(image[0, 0, 0]), info.class_names[label])
    assert found["animal 7"][1:] == (7, "Animals & Nature")
    assert found["animal 0, medium skin tone"] == (found["animal 0"][0], 200, "Food & Drink")
    for number, code in enumerate(codes):
        is_test = int(hashlib.sha256(code.encode()).hexdigest(), 16) % 10 == 0
        assert found[f"animal {number}"][0] == ("test" if is_test else "train")
    assert "SHA-256 divisible by 10" in manifest_of(info).prepared_from.description
    options = ("--source", "emoji.tgz", "--subcategories", "--unverified", "--out", "sub")
    assert main(["data", "prepare", "emoji", *options]) == 0
    assert find_dataset("./sub", data_root).class_names == ("kind-0", "kind-1", "kind-2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("emoji",), "npm pack emoji-datasource-google@16.0.0"),
        (("emoji", "--source", "e.tgz", "--image-size", "20"), "16, 32 or 64 pixels"),
        (("mine", "--source", "e.tgz", "--subcategories"), "for the dataset emoji"),
        (("mine", "--source", "e.tgz", "--classes", "10"), "leave --source out"),
        (("mine", "--source", "p.txt", "--captions", "x"), "holds prompts alone"),
        (("cifar10", "--source", "p.txt", "--captions", "x"), "choose another NAME to use --captions"),
        (("mine", "--source", "empty.txt"), "has no prompts"),
    ],
)
def test_bad_input_is_one_message(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("e.tgz").write_bytes(b"x")
    Path("p.txt").write_text("a cat")
    Path("empty.txt").write_text("\n")
    assert message in refused(capsys, *arguments)
