"""`--reproduce REF`, which scheduled runs use: unchanged results are found, changed ones are trained."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from progdistill.data.dataset import find_dataset
from progdistill.data.importers.arrays import ArraysSource
from progdistill.data.reading import read_split
from progdistill.registry.aliases import move_alias
from progdistill.store.open import open_store
from progdistill.version import NUMERICS_VERSION
from tests.data.datasets import prepared
from tests.end_to_end.running import ids_of, report_of, run_flow

ROOT = Path(__file__).parents[2]
FOUND = "found finished in the store"


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the folder of a finished run."""
    shutil.copytree(finished, tmp_path / "work", symlinks=True)
    return tmp_path / "work"


@pytest.fixture
def production(folder: Path) -> list[str]:
    """The ids of the run's checkpoints; the last student is the alias `production`."""
    ids = ids_of(folder)
    move_alias(open_store(str(folder / ".progdistill" / "store")), "production", ids[-1], "tester")
    return ids


def test_with_nothing_changed_no_job_is_started(folder: Path, production: list[str]) -> None:
    done = run_flow(folder, "run", "--reproduce", "production")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert ids_of(folder) == production
    assert done.stdout.count(FOUND) == 7
    assert not (folder / "runs" / report_of(folder)["run_id"] / "jobs").exists()


@pytest.mark.slow
def test_what_an_option_changes_is_trained_and_the_rest_is_found(folder: Path, production: list[str]) -> None:
    done = run_flow(folder, "run", "--reproduce", "production", "--updates-per-stage", "5")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    ids = ids_of(folder)
    assert ids[0] == production[0] and ids[1] != production[1] and ids[2] != production[2]
    assert f"base model: {FOUND}" in done.stdout and f"student of 2 steps: {FOUND}" not in done.stdout


@pytest.mark.slow
def test_other_data_under_the_same_name_is_trained_on(folder: Path, production: list[str], tmp_path: Path) -> None:
    before = find_dataset("digits", folder / ".progdistill" / "data")
    train, test = read_split(before, "train"), read_split(before, "test")
    np.savez(
        tmp_path / "grown.npz",
        x_train=np.concatenate([train[0], test[0][:50]]),
        y_train=np.concatenate([train[1], test[1][:50]]),
        x_test=test[0],
        y_test=test[1],
    )
    after = prepared(ArraysSource(tmp_path / "grown.npz", horizontal_flip_safe=False), tmp_path, "digits")
    done = run_flow(folder, "run", "--reproduce", "production", PROGDISTILL_DATA=str(tmp_path))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert FOUND not in done.stdout
    assert not set(ids_of(folder)) & set(production)
    assert report_of(folder)["dataset_fingerprint"] == after.fingerprint != before.fingerprint


@pytest.mark.slow
def test_code_with_other_numerics_trains_everything_anew(folder: Path, production: list[str], tmp_path: Path) -> None:
    for part in ("progdistill", "flows"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    version = tmp_path / "progdistill" / "version.py"
    raised = re.sub(r"(NUMERICS_VERSION = )\d+", rf"\g<1>{NUMERICS_VERSION + 1}", version.read_text())
    version.write_text(raised)
    done = run_flow(
        *(folder, "run", "--reproduce", "production"),
        flow=tmp_path / "flows" / "distill_flow.py",
        PYTHONPATH=str(tmp_path),
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert FOUND not in done.stdout
    assert not set(ids_of(folder)) & set(production)
