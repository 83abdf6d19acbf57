"""The wheel, installed alone into an empty environment, in an empty folder outside any checkout."""

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.end_to_end.running import SMALL, environment, report_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from the sdist's content."""
    folder = tmp_path_factory.mktemp("distributions")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "progdistill", source / "progdistill", ignore=shutil.ignore_patterns("__pycache__"))
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (sdist,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(sdist, folder / "unpacked")
    (unpacked,) = (folder / "unpacked").iterdir()
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=unpacked, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def programs(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment that holds the wheel, and sees the locked dependencies but no checkout."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    (wheel,) = distributions.glob("*.whl")
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    # A path in a .pth file brings the packages there; the checkout's own .pth file beside them is not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def run(programs: Path, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    surroundings = environment(PATH=f"{programs}:/usr/bin:/bin")
    surroundings.pop("PYTHONPATH", None)
    return subprocess.run(
        [str(programs / words[0]), *words[1:]], cwd=folder, env=surroundings, capture_output=True, text=True
    )


def test_the_wheel_is_what_is_imported(programs: Path, tmp_path: Path) -> None:
    done = run(programs, tmp_path, "python", "-c", "import progdistill; print(progdistill.__file__)")
    assert Path(done.stdout).is_relative_to(programs.parent), done.stdout + done.stderr


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_it_runs_the_digits_and_resumes_them(programs: Path, tmp_path: Path) -> None:
    failing = ("--set", "evaluation.evaluator=features_file", "--set", "evaluation.weights=gone.pt")
    refused = run(programs, tmp_path, "progdistill", "run", "--ladder", "2:1", *SMALL, *failing)
    assert refused.returncode == 2 and "gone.pt" in refused.stderr, refused.stderr

    done = run(programs, tmp_path, "progdistill", "run", "--ladder", "2:1", *SMALL)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    first = report_of(tmp_path)
    resumed = run(programs, tmp_path, "progdistill", "resume", "--origin-run-id", first["run_id"])
    assert resumed.returncode == 0, resumed.stdout[-3000:] + resumed.stderr[-3000:]
    ids = [checkpoint["id"] for checkpoint in first["checkpoints"]]
    assert [checkpoint["id"] for checkpoint in report_of(tmp_path)["checkpoints"]] == ids
    listed = run(programs, tmp_path, "progdistill", "checkpoints", "list")
    assert all(checkpoint_id[:12] in listed.stdout for checkpoint_id in ids)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_lines_of_readme_do_what_they_say(programs: Path, tmp_path: Path) -> None:
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "notebook.py").write_text(lines)
    done = run(programs, tmp_path, "python", "notebook.py")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "two_steps.png").exists()
    assert (tmp_path / "two-step" / "scheduler").exists()
    assert re.search(r"student of 2 steps \d+ ", done.stdout), done.stdout
