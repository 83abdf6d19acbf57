"""`progdistill sample` and `progdistill evaluate` on the command line."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from progdistill.cli.main import main
from progdistill.data.dataset import DatasetInfo
from progdistill.features.weights import INCEPTION_SHA256, sha256_of
from progdistill.registry.checkpoint import CheckpointManifest
from progdistill.store.base import Store
from tests.evaluation.conftest import publish
from tests.features.inception_file import write_small_inception

FEATURES = 2048


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
    assert (facts["images"], facts["sampling_steps"], facts["sampler"]) == (6, 2, "ddim")
    with Image.open(out) as picture:
        assert picture.size == (3 * 50 + 2, 2 * 50 + 2)


def test_sample_keeps_each_image_as_it_is_in_parquet(store: str, student: CheckpointManifest, tmp_path: Path) -> None:
    out = tmp_path / "samples.parquet"
    options = ["--count", "12", "--batch-size", "5", "--out", str(out), "--store", store]
    assert main(["sample", student.id, *options]) == 0
    rows = parquet.read_table(out).to_pylist()
    assert [(row["index"], row["label"]) for row in rows] == [(i, i % 10) for i in range(12)]
    sizes = [Image.open(io.BytesIO(row["image"]["bytes"])).size for row in rows]
    assert set(sizes) == {(8, 8)}
    assert len({row["image"]["bytes"] for row in rows}) > 6
    assert [path.name for path in tmp_path.iterdir()] == ["samples.parquet"]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_sample_leaves_no_partial_file(
    number: signal.Signals, store: str, student: CheckpointManifest, tmp_path: Path
) -> None:
    options = ["--count", "1000000", "--batch-size", "1", "--out", str(tmp_path / "x.parquet"), "--store", store]
    drawing = subprocess.Popen(
        [sys.executable, "-m", "progdistill.cli.main", "sample", student.id, *options],
        # A shell has what it runs in the background ignore Ctrl-C, tests included.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while not (tmp_path / ".x.parquet.part").exists():
            assert drawing.poll() is None
            time.sleep(0.05)
        drawing.send_signal(number)
        assert drawing.wait(timeout=250) == 130
    finally:
        drawing.kill()
        drawing.wait()
    assert not list(tmp_path.iterdir())


def test_equal_seeds_draw_equal_pictures(store: str, base: CheckpointManifest, tmp_path: Path) -> None:
    drawn = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        out = tmp_path / f"{name}.png"
        options = ["--count", "4", "--steps", "2", "--seed", str(seed), "--sampler", "ancestral", "--class", "7"]
        assert main(["sample", base.id[:12], *options, "--out", str(out), "--store", store]) == 0
        drawn.append(out.read_bytes())
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class", "10"], "give a class from 0 to 9"),
        (["--count", "0"], "count 0: give a number from 1 to 10,000,000"),
        (["--count", "99999999999999999999"], "from 1 to 10,000,000"),
        (["--sampling-steps", "0"], "sampling steps 0: give a number from 1 to 1,048,576"),
        (["--sampling-steps", "1048577"], "from 1 to 1,048,576"),
        (["--batch-size", "0"], "batch size 0: give a number from 1"),
        (["--batch-size", "-1"], "batch size -1: give a number from 1"),
        (["--sampler", "ancestral", "--gamma", "2"], "from 0 to 1"),
        (["--sampler", "ancestral", "--gamma", "nan"], "from 0 to 1"),
        (["--gamma", "0.5"], "gamma is for the sampler ancestral"),
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


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("/etc", "ends in .png or .parquet"),
        ("", "ends in .png or .parquet"),
        ("grid.jpg", "ends in .png or .parquet"),
        ("grid", "ends in .png or .parquet"),
        ("folder.png", "it is a folder"),
        ("/proc/x.png", "cannot write --out /proc/x.png: "),
        ("/proc/x.parquet", "cannot write --out /proc/x.parquet: "),
        ("/dev/null/x.png", "cannot write --out /dev/null/x.png: Not a directory"),
    ],
)
def test_a_picture_that_cannot_be_written_is_refused_before_it_is_drawn(
    store: str,
    student: CheckpointManifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    out: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.png").mkdir()
    assert main(["sample", student.id, "--out", out, "--store", store]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


@pytest.mark.parametrize("name", ["grid.png", "samples.parquet"])
def test_a_disk_that_is_full_is_one_message(
    store: str,
    student: CheckpointManifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(os, "replace", full)
    assert main(["sample", student.id, "--count", "2", "--out", str(tmp_path / name), "--store", store]) == 2
    assert f"{name}: No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sampling-steps", "-3"], "--sampling-steps -3: give a number from 1 to 1,048,576"),
        (["--sampling-steps", "0"], "--sampling-steps 0: give"),
        (["--sampling-steps", "1048577"], "--sampling-steps 1048577: give"),
        (["--samples", "1"], "--samples 1: give a number from 2 to 10,000,000"),
        (["--samples", "99999999999999999999"], "from 2 to 10,000,000"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    store: str, student: CheckpointManifest, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["evaluate", student.id, *options, "--store", store]) == 2
    assert message in capsys.readouterr().err


def test_a_base_model_needs_a_number_of_steps(
    store: str, base: CheckpointManifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", base.id, "--out", str(tmp_path / "x.png"), "--store", store]) == 2
    assert "--sampling-steps N" in capsys.readouterr().err


def test_evaluate_prints_the_record(
    store: str, student: CheckpointManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", student.id, "--samples", "30", "--store", store, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["distilled"]["spec"]["samples"] == 30
    assert record["distilled"]["distance_name"] == "frechet_digits_classifier"
    assert record["baseline_ddim"]["distance"] > 0


def test_evaluate_refuses_data_that_has_become_another_unless_it_is_named(
    store: str, evaluated_store: Store, digits: DatasetInfo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digits.model_copy(update={"fingerprint": "f" * 64})
    checkpoint = publish(evaluated_store, tmp_path, before, seed=9)
    command = ["evaluate", checkpoint.id, "--steps", "2", "--samples", "30", "--no-baselines"]
    assert main([*command, "--store", store]) == 2
    assert f"fingerprint {'f' * 64}, but digits in" in capsys.readouterr().err
    assert main([*command, "--store", store, "--dataset", "digits"]) == 0


def test_evaluate_names_distance_and_sample_count_beside_each_figure(
    store: str, student: CheckpointManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", student.id, "--samples", "30", "--store", store]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 3
    for figure in ("frechet_digits_classifier", "kernel distance", "precision", "class score", "30 samples"):
        assert all(figure in line for line in lines)


@pytest.mark.slow
def test_inception_weights_from_a_file_give_a_fid_by_its_own_name(
    store: str, student: CheckpointManifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = write_small_inception(tmp_path)
    options = ["--samples", "20", "--no-baselines", "--store", store]
    statistics = tmp_path / "published.npz"
    np.savez(statistics, mu=np.zeros(FEATURES), sigma=np.eye(FEATURES))
    options += ["--reference-statistics", str(statistics)]
    given = ["--inception-weights", weights.as_uri(), "--inception-sha256", sha256_of(weights)]
    assert main(["evaluate", student.id, *options, *given]) == 0
    out = capsys.readouterr().out
    assert "fid_legacy_tensorflow" in out
    assert "20 samples" in out


def test_without_inception_weights_the_exact_file_is_named(
    store: str, student: CheckpointManifest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PROGDISTILL_INCEPTION", raising=False)
    assert main(["evaluate", student.id, "--evaluator", "inception", "--store", store]) == 2
    message = capsys.readouterr().err
    assert "inception-2015-12-05.pt" in message
    assert INCEPTION_SHA256 in message


def test_inception_weights_do_not_go_with_another_evaluator(
    store: str, student: CheckpointManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--inception-weights", "x.pt", "--evaluator", "digits_classifier", "--store", store]
    assert main(["evaluate", student.id, *options]) == 2
    assert "cannot be used with" in capsys.readouterr().err


def test_an_unknown_evaluator_is_named(
    store: str, student: CheckpointManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", student.id, "--evaluator", "magic", "--store", store]) == 2
    assert "magic" in capsys.readouterr().err


def test_a_grid_with_titles_has_a_row_for_each_class(
    store: str, base: CheckpointManifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, titled = tmp_path / "plain.png", tmp_path / "titled.png"
    options = ("sample", base.id, "--sampling-steps", "1", "--count", "20", "--store", store)
    assert main([*options, "--out", str(plain)]) == 0
    assert main([*options, "--out", str(titled), "--titles"]) == 0
    assert Image.open(titled).height == 10 * (18 + 50 + 2) != Image.open(plain).height
    assert main([*options, "--out", str(tmp_path / "x.parquet"), "--titles"]) == 2
    assert "--titles is for pictures" in capsys.readouterr().err
