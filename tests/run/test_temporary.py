"""A run's temporary folder holds those of its processes, and goes with it, however it ends."""

import fcntl
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from progdistill.run import temporary
from progdistill.run.temporary import temporary_folder

HOLD = """
import tempfile
from progdistill.run.temporary import temporary_folder
with temporary_folder() as folder:
    tempfile.mkdtemp()
    print(folder, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def start() -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_it_is_that_of_the_process_and_its_children_until_the_run_ends(tmp_path: Path) -> None:
    with temporary_folder() as folder:
        child = subprocess.check_output(
            [sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"], text=True
        )
        assert folder.parent == tmp_path and tempfile.gettempdir() == child.strip() == str(folder)
    assert tempfile.gettempdir() == str(tmp_path) and not folder.exists()


def test_that_of_a_killed_run_is_removed_by_the_next_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    with start() as killed, start() as living:
        assert killed.stdout is not None and living.stdout is not None
        folders = [Path(run.stdout.readline().strip()) for run in (killed, living) if run.stdout]
        killed.kill()
        killed.wait()
        with temporary_folder():
            assert [folder.exists() for folder in folders] == [False, True]
        living.communicate("\n")
    assert not list(tmp_path.iterdir())


def test_a_run_that_starts_meanwhile_leaves_one_that_is_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock

    def another_run_starts(file: Any, how: int) -> None:
        if how == fcntl.LOCK_EX:
            subprocess.run([sys.executable, "-c", HOLD], input="\n", text=True, check=True, stdout=subprocess.DEVNULL)
        flock(file, how)

    monkeypatch.setattr(temporary.fcntl, "flock", another_run_starts)
    with temporary_folder() as folder:
        assert folder.exists()
