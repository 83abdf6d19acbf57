"""`progdistill data` on the command line: one line prepares a dataset; an error is one message and status 2."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from progdistill.cli.main import main
from progdistill.images import enlarge
from progdistill.models_base import content_id
from progdistill.store.documents import SEAL
from tests.data.published import cifar10_files, encoded, lsun_database, random_images, write_tar

IMAGES, LABELS = random_images(24, 12, classes=2)


@pytest.fixture(autouse=True)
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder in the environment, and a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROGDISTILL_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Images of two classes in subfolders, as a relative path."""
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        path = tmp_path / "pets" / ("cat", "dog")[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(image))
    return Path("pets")


def facts(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    """What a verb prints with --json, and nothing else on standard output."""
    capsys.readouterr()
    assert main(["data", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one message of a usage error."""
    capsys.readouterr()
    assert main(["data", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ")
    return captured.err


def test_a_folder_of_images_is_prepared_in_one_line(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "prepare", "pets", "--source", "pets"]) == 0
    output = capsys.readouterr().out
    assert "24 train" in output and "use it with: --dataset pets" in output
    info = facts(capsys, "info", "pets")
    assert (info["image_size"], info["class_names"], info["splits"]) == (12, ["cat", "dog"], {"train": 24})
    statistics = info["statistics"]["train"]
    assert statistics["class_counts"] == [12, 12]
    assert statistics["mean"] == pytest.approx(IMAGES.reshape(-1, 3).mean(axis=0))
    assert statistics["std"] == pytest.approx(IMAGES.reshape(-1, 3).std(axis=0))


def test_every_option_for_own_images_reaches_the_pixels(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--image-size", "6", "--crop", "stretch", "--resize", "lanczos", "--gray", "--no-flip")
    info = facts(capsys, "prepare", "small", "--source", pets, *options)
    assert (info["image_size"], info["channels"], info["horizontal_flip_safe"]) == (6, 1, False)
    assert info["prepared_from"]["description"] == "stretched, lanczos resize to 6×6, grayscale"


def test_info_draws_a_grid_and_a_histogram(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts(capsys, "prepare", "pets", "--source", pets)
    assert main(["data", "info", "pets", "--grid", "grid.png", "--verify"]) == 0
    captured = capsys.readouterr()
    assert "cat        12 ███" in captured.out and "every shard of pets is intact" in captured.err
    with Image.open("grid.png") as grid:
        assert grid.size == (5 * 50 + 2, 5 * 50 + 2)  # 24 images in 5 × 5, enlarged by 4, 2 pixels apart.
        corner = np.asarray(grid)[2:50, 2:50]
    assert any(np.array_equal(corner, enlarge(image, 4)) for image in IMAGES)


def test_list_tells_what_is_prepared_and_the_line_for_the_rest(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {entry["name"]: entry["prepared"] for entry in facts(capsys, "list")} == {
        "digits": False,
        "cifar10": False,
        "emoji": False,
        "imagenet64": False,
        "lsun_bedroom": False,
        "lsun_church": False,
    }
    facts(capsys, "prepare", "digits")
    facts(capsys, "prepare", "pets", "--source", pets)
    assert main(["data", "list"]) == 0
    output = capsys.readouterr().out
    assert "pets           12×12 RGB, 24 train, 2 classes" in output
    assert "progdistill data prepare cifar10 --source cifar-10-python.tar.gz" in output


def test_a_dataset_prepared_elsewhere_is_found_by_its_folder(
    pets: Path, capsys: pytest.CaptureFixture[str], data_root: Path
) -> None:
    facts(capsys, "prepare", "pets", "--source", pets, "--out", "elsewhere/pets")
    assert not data_root.joinpath("pets").exists()
    assert facts(capsys, "info", "elsewhere/pets")["splits"] == {"train": 24}
    assert "pets is a folder of images" in refused(capsys, "info", "pets")


def test_known_datasets_are_prepared_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = random_images(12, 32)
    batches = [(images[2 * k : 2 * k + 2], labels[2 * k : 2 * k + 2]) for k in range(5)]
    files = {
        f"cifar-10-batches-py/{name}": data for name, data in cifar10_files(batches, (images[10:], labels[10:])).items()
    }
    write_tar(Path("cifar-10-python.tar.gz"), files, "w:gz")
    command = ("prepare", "cifar10", "--source", "cifar-10-python.tar.gz")
    assert "is not the published cifar-10-python.tar.gz: its MD5 is" in refused(capsys, *command)
    assert facts(capsys, *command, "--unverified")["splits"] == {"train": 10, "test": 2}
    lsun_database(Path("church_outdoor_train_lmdb"), {"a" * 40: encoded(random_images(1, 256)[0][0])})
    church = facts(capsys, "prepare", "lsun_church", "--source", ".", "--unverified")
    assert (church["image_size"], church["splits"]) == (128, {"train": 1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prepare", "pets"), "give the files of pets with --source PATH"),
        (("prepare", "pets", "--source", "nowhere"), "nowhere does not exist"),
        (("prepare", "../pets", "--source", "pets"), "'../pets' is not a valid dataset name"),
        (("prepare", "pets", "--source", "pets", "--image-size", "0"), "--image-size 0"),
        (("prepare", "pets", "--source", "pets", "--max-unreadable", "-1"), "--max-unreadable -1: give a number"),
        (("prepare", "pets", "--source", "pets", "--crop", "center"), "need --image-size N"),
        (("prepare", "pets", "--source", "pets", "--grey"), "--grey is now --gray"),
        (("prepare", "cifar10", "--source", "pets", "--gray"), "choose another NAME to use --gray"),
        (("prepare", "cifar10", "--source", "pets"), "no CIFAR-10 in pets"),
        (("prepare", "imagenet64", "--source", "pets"), "published are 1,281,167"),
        (("prepare", "imagenet64", "--source", "empty"), "empty is empty: put the files there. Get Imagenet64"),
        (("prepare", "lsun_bedroom", "--source", "pets"), "unpack bedroom_train_lmdb.zip there first"),
        (("prepare", "pets", "--source", "pets/cat/0.dat"), "0.dat cannot be prepared"),
        (("prepare", "pets", "--source", "x.npy", "--image-size", "4"), "arrays are used as they are"),
        (("prepare", "pets", "--source", "pets", "--out", "ftp://host/x"), "ftp"),
        (("prepare", "pets", "--source", "pets", "--out", "/proc/x"), "cannot write --out /proc/x: "),
        (("prepare", "pets", "--source", "pets", "--out", "/dev/null/x"), "cannot write --out /dev/null/x: "),
        (("prepare", "pets", "--source", "pets", "--out", "x.npy"), "it is a file"),
        (("prepare", "pets", "--source", "pets", "--out", "pets"), "pets is not empty"),
        (
            ("prepare", "pets", "--source", "pets", "--out", "/"),
            "/ is not empty" if os.access("/", os.W_OK) else "cannot write --out /: ",
        ),
        (("info", "nothing"), "unknown dataset 'nothing'"),
        (("info", "digits", "--split", "validation"), "no split 'validation'; it has train, test"),
        (("info", "digits", "--grid", "no/such/folder.png"), "cannot write --grid"),
    ],
)
def test_what_is_wrong_is_one_message(
    pets: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    (pets / "cat" / "0.dat").write_text("no image")
    np.save("x.npy", IMAGES)
    Path("empty").mkdir()
    assert message in refused(capsys, *arguments)
    assert not [*Path().rglob("*.preparing*"), *Path("/").glob("*.preparing*")]


def test_a_data_folder_that_cannot_be_made_is_one_message(
    pets: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROGDISTILL_DATA", "/dev/null/x")
    output = refused(capsys, "prepare", "pets", "--source", "pets")
    assert output.startswith("error: cannot write PROGDISTILL_DATA /dev/null/x/pets: ")
    assert not [entry for entry in facts(capsys, "list") if entry["prepared"]]


def mutations(value: Any) -> Iterator[Any]:
    """The value with one part of it, at any depth, removed or replaced."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield {name: other for name, other in value.items() if name != key}
            yield from (value | {key: changed} for changed in mutations(inner))
        yield value | {"unknown": 1}
    elif isinstance(value, list):
        yield []
        for index, inner in enumerate(value):
            yield value[:index] + value[index + 1 :]
            yield from ([*value[:index], changed, *value[index + 1 :]] for changed in mutations(inner))
    yield from (None, -1, 2**62, 2**80, 1.5, "x", "\x1b[31m", [], {}, [[1]])


def test_a_manifest_that_lies_is_one_message(pets: Path, capsys: pytest.CaptureFixture[str], data_root: Path) -> None:
    facts(capsys, "prepare", "pets", "--source", pets)
    path = data_root / "pets" / "manifest.json"
    whole = json.loads(path.read_text())
    del whole[SEAL]
    whole["prepared_from"]["identity"] = {}
    statuses = []
    for changed in [changed for changed in mutations(whole) if isinstance(changed, dict)][::25]:
        path.write_text(json.dumps(changed | {SEAL: content_id(changed)}))
        statuses.append(main(["data", "info", "pets", "--grid", "grid.png"]))
        assert main(["data", "list"]) == statuses[-1], changed
        output = capsys.readouterr()
        assert "\x1b" not in output.out + output.err, changed
    assert {0, 1} <= set(statuses) <= {0, 1, 2}


def test_a_corrupt_shard_is_named_with_its_digests(
    pets: Path, capsys: pytest.CaptureFixture[str], data_root: Path
) -> None:
    facts(capsys, "prepare", "pets", "--source", pets)
    shard = data_root / "pets" / "train-00000.arrow"
    intact = shard.read_bytes()
    damaged = bytearray(intact)
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)
    assert main(["data", "info", "pets", "--verify"]) == 1
    output = capsys.readouterr().err
    found, expected = hashlib.sha256(damaged).hexdigest(), hashlib.sha256(intact).hexdigest()
    assert re.search(rf"pets/train-00000\.arrow is damaged: .*{found}.*{expected}", output)
    assert f"remove {data_root}/pets and prepare it again" in output
