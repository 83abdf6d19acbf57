"""A store that becomes full or read-only while a job runs: one message, exit status 2, no traceback."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from progdistill.data.dataset import find_dataset
from progdistill.jobs.spec import TrainBaseSpec
from progdistill.store.failpoints import VARIABLE
from progdistill.store.open import open_store
from tests.end_to_end.running import command, environment
from tests.faults.publisher import REPOSITORY
from tests.jobs.asking import request_for
from tests.training.conftest import settings, tiny


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no right to mount a small file system: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"), open(disk / "filler", "wb") as file:
        while True:
            file.write(b"x" * 4096)
            file.flush()


def make_read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


@pytest.mark.parametrize(
    ("become", "advice"), [(fill, "No space left on device"), (make_read_only, "Read-only file system")]
)
def test_a_store_that_becomes_full_or_read_only_in_mid_training_is_one_message(
    become: object, advice: str, disk: Path, tmp_path: Path
) -> None:
    store = open_store(str(disk / "store"))
    store.check_writable()
    digits = find_dataset("digits", tmp_path / "data")
    spec = TrainBaseSpec(dataset_fingerprint=digits.fingerprint, seed=0, model=tiny(), training=settings(4))
    request, release = tmp_path / "request.json", tmp_path / "release"
    request.write_text(request_for(spec, store, digits).model_dump_json())
    worker = subprocess.Popen(
        [sys.executable, "-m", "progdistill.jobs.worker", str(request)],
        cwd=REPOSITORY,
        env={**os.environ, VARIABLE: f"hold:training.update@2:{release}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    assert any("reached training.update" in line for line in worker.stdout)
    assert callable(become)
    become(disk)
    release.touch()
    _, said = worker.communicate(timeout=250)
    assert worker.returncode == 2, said
    assert "Traceback" not in said and advice in said
    assert [word for word in ("free some space", "choose another --store", "fix its permissions") if word in said]


@pytest.mark.slow
def test_a_run_whose_store_becomes_full_ends_with_one_message_and_status_2(disk: Path, tmp_path: Path) -> None:
    release = tmp_path / "release"
    words = command("run", "--ladder", "2:1", "--base-updates", "4", "--updates-per-stage", "2", "--store", f"{disk}/s")
    fault = {VARIABLE: f"hold:training.update@2:{release}"}
    run = subprocess.Popen(
        words, cwd=tmp_path, env=environment(**fault), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert run.stdout is not None
    lines = []
    for line in run.stdout:
        lines.append(line)
        if "reached training.update" in line:
            break
    fill(disk)
    release.touch()
    said = "".join(lines) + run.communicate(timeout=280)[0]
    assert run.returncode == 2, said
    assert "Traceback" not in said and "No space left on device" in said and "free some space" in said
