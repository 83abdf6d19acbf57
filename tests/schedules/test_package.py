"""The code package of pods is complete: unpacked elsewhere, it runs without the checkout."""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.end_to_end.running import command, environment, report_of

ROOT = Path(__file__).parents[2]
MARK = "0.0.0+unpacked"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's folder, with a version of its own by which its results can be told."""
    folder = tmp_path_factory.mktemp("package")
    archive = folder / "job.tar"
    done = subprocess.run(
        command("package", "save", str(archive)), cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "unpacked")
    version = folder / "unpacked" / ".mf_code" / "progdistill" / "version.py"
    version.write_text(version.read_text().replace('__version__ = "', f'__version__ = "{MARK}"  # "'))
    return folder / "unpacked"


def test_every_file_of_the_package_travels(unpacked: Path) -> None:
    here = {
        path.relative_to(ROOT)
        for path in (ROOT / "progdistill").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    there = {path.relative_to(unpacked / ".mf_code") for path in (unpacked / ".mf_code").rglob("*")}
    assert any(path.suffix == ".j2" for path in here)  # not only modules
    assert here <= there


@pytest.mark.slow
def test_the_unpacked_flow_trains_and_reports_with_its_own_code(unpacked: Path, tmp_path: Path) -> None:
    run = ("run", "--ladder", "2:1", "--base-updates", "2", "--updates-per-stage", "2")
    done = subprocess.run(
        [sys.executable, str(unpacked / "distill_flow.py"), *run, "--set", "evaluation.samples=20"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(unpacked / ".mf_code")),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert report_of(tmp_path)["code_version"] == MARK
