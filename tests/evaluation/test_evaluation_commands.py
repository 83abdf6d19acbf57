"""`progdistill sample` and `progdistill evaluate`, as typed."""

import json
from pathlib import Path

import pytest
from PIL import Image

from progdistill.artifacts.checkpoint import CheckpointManifest
from progdistill.artifacts.store import Store
from progdistill.cli import main
from progdistill.data.dataset import DatasetInfo


@pytest.fixture
def store(evaluated_store: Store, digits: DatasetInfo, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PROGDISTILL_DATA", str(Path(digits.location).parent))
    return evaluated_store.uri


def test_sample_draws_a_grid(
    store: str, student: CheckpointManifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "grid.png"
    assert main(["sample", student.id, "--count", "6", "--out", str(out), "--store", store, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["images"], facts["steps"], facts["sampler"]) == (6, 2, "ddim")
    with Image.open(out) as picture:
        assert picture.size == (3 * 50 + 2, 2 * 50 + 2)


def test_equal_seeds_draw_equal_pictures(store: str, base: CheckpointManifest, tmp_path: Path) -> None:
    drawn = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        out = tmp_path / f"{name}.png"
        options = [
            "--count",
            "4",
            "--steps",
            "2",
            "--seed",
            str(seed),
            "--sampler",
            "ancestral",
            "--class",
            "7",
        ]
        assert main(["sample", base.id[:12], *options, "--out", str(out), "--store", store]) == 0
        drawn.append(out.read_bytes())
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class", "10"], "give a class from 0 to 9"),
        (["--count", "0"], "at least 1 image"),
        (["--steps", "0"], "at least 1 step"),
        (["--gamma", "2"], "from 0 to 1"),
    ],
)
def test_bad_options_are_one_message(
    store: str,
    student: CheckpointManifest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    out = tmp_path / "grid.png"
    assert main(["sample", student.id, *options, "--out", str(out), "--store", store]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_base_model_needs_a_number_of_steps(
    store: str, base: CheckpointManifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", base.id, "--out", str(tmp_path / "x.png"), "--store", store]) == 2
    assert "--steps N" in capsys.readouterr().err


def test_evaluate_prints_the_record(
    store: str, student: CheckpointManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", student.id, "--samples", "30", "--store", store, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["distilled"]["question"]["samples"] == 30
    assert record["distilled"]["distance_name"] == "frechet_digits_classifier"
    assert record["baseline_ddim"]["distance"] > 0


def test_evaluate_names_distance_and_sample_count_beside_each_figure(
    store: str, student: CheckpointManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", student.id, "--samples", "30", "--store", store]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 3
    assert all("frechet_digits_classifier" in line and "30 samples" in line for line in lines)


def test_an_unknown_evaluator_is_named(
    store: str, student: CheckpointManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", student.id, "--evaluator", "magic", "--store", store]) == 2
    assert "magic" in capsys.readouterr().err
