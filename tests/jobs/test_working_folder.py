"""Files of the working folder are never imported, whatever their names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from progdistill.config.cluster import ClusterSettings
from progdistill.data.dataset import DatasetInfo
from progdistill.jobs.forkserver import fork_server
from progdistill.jobs.kubernetes.manifest import job_manifest, submission_for
from progdistill.jobs.local import LocalLauncher
from progdistill.jobs.spec import TrainBaseSpec
from progdistill.registry.checkpoint import list_ids
from progdistill.store.base import Store
from tests.jobs.asking import base_of_two_ranks, request_for
from tests.training.conftest import settings, tiny

NAMES = ("torch", "pydantic", "json", "safetensors", "progdistill", "numpy", "logging", "multiprocessing")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder full of modules that leave a trace when they are imported."""
    here = tmp_path / "work"
    here.mkdir()
    for name in NAMES:
        (here / f"{name}.py").write_text(
            f"open({str(tmp_path / 'imported')!r}, 'a').write({name!r} + '\\n')\nraise SystemExit(9)\n"
        )
    monkeypatch.chdir(here)
    return here


def assert_nothing_was_imported(folder: Path) -> None:
    assert not (folder.parent / "imported").exists(), (folder.parent / "imported").read_text()


@pytest.mark.parametrize("forked", [False, True])
def test_a_worker_imports_nothing_from_the_working_folder(
    forked: bool, folder: Path, store: Store, digits: DatasetInfo
) -> None:
    spec = TrainBaseSpec(dataset_fingerprint=digits.fingerprint, seed=0, model=tiny(), training=settings(2))
    if forked:
        with fork_server():
            LocalLauncher(folder / "jobs").launch(request_for(spec, store, digits))
    else:
        LocalLauncher(folder / "jobs").launch(request_for(spec, store, digits))
    assert len(list_ids(store)) == 1
    assert_nothing_was_imported(folder)


def test_ranks_import_nothing_from_the_working_folder(folder: Path, store: Store, digits: DatasetInfo) -> None:
    LocalLauncher(folder / "jobs").launch(base_of_two_ranks(store, digits, seed=0))
    assert len(list_ids(store)) == 1
    assert_nothing_was_imported(folder)


def test_a_pod_imports_nothing_from_the_working_folder(store: Store, digits: DatasetInfo) -> None:
    spec = TrainBaseSpec(dataset_fingerprint=digits.fingerprint, seed=0, model=tiny(), training=settings(2))
    manifest = job_manifest(submission_for(request_for(spec, store, digits), ClusterSettings(image="i"), store))
    command = manifest["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[:3] == ["python", "-P", "-m"]
    help_text = subprocess.run(
        [sys.executable, *command[1:], "--help"], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert "--store" in help_text.stdout
