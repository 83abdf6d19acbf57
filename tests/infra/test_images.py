"""Images: linted, pinned, non-root, and made from the lock file's own entries."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import requires
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

from tests.infra.tools import INFRA, ROOT, run, tool

IMAGES = INFRA / "images"
DOCKERFILE = (IMAGES / "Dockerfile").read_text()
LOCK = (ROOT / "requirements.lock").read_text()


@cache
def _runtime_lock() -> ModuleType:
    spec = importlib.util.spec_from_file_location("runtime_lock", IMAGES / "runtime_lock.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _part(*lists: str) -> dict[str, str]:
    module = _runtime_lock()
    omissions = set[str]().union(*(module.names_in((IMAGES / name).read_text()) for name in lists))
    return dict(module.entries(module.part_of(LOCK, without=omissions)))


def _needed(*roots: str) -> set[str]:
    """Everything that those requirements lead to, as the metadata of what is installed here says."""
    found: set[str] = set()
    waiting = [Requirement(root) for root in roots]
    while waiting:
        one = waiting.pop()
        extras = one.extras or {""}
        name = _runtime_lock().normalized(one.name)
        if (key := f"{name}{sorted(extras)}") in found:
            continue
        found |= {key, name}
        for text in requires(name) or []:
            more = Requirement(text)
            if more.marker is None or any(more.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(more)
    return {name for name in found if "[" not in name}


def _dependencies() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], "setuptools"]


@pytest.mark.parametrize("name", ["Dockerfile", "metaflow.Dockerfile"])
def test_hadolint_has_nothing_to_say(name: str) -> None:
    done = run(tool("hadolint"), IMAGES / name)
    assert done.returncode == 0, done.stdout


def test_the_base_image_is_pinned_by_version_and_digest() -> None:
    (image,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"docker\.io/library/python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}", image)
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    names = {name for _, name in stages}
    assert {source for source, _ in stages} - names == {"${PYTHON_IMAGE}"}, "a base image that is not pinned"
    assert {"gpu", "cpu", "tpu"} <= names


def test_images_run_as_a_number_that_is_not_root() -> None:
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE) == ["1000:1000"]
    after = DOCKERFILE.split("USER 1000:1000")[1]
    assert re.findall(r"^(RUN|USER|ADD)", after, re.MULTILINE) == []


def test_everything_installed_from_an_index_is_held_against_hashes() -> None:
    commands = DOCKERFILE.replace("\\\n", " ").splitlines()
    installs = [part for line in commands for part in line.split("&&") if "pip install" in part]
    (own,) = [part for part in installs if part.rstrip().endswith(" .")]
    assert "--no-deps" in own
    assert all("--require-hashes" in part for part in installs if part is not own)


@pytest.mark.parametrize("lists", [("not_in_images.txt",), ("not_in_images.txt", "cuda.txt")])
def test_an_image_has_all_that_the_package_needs(lists: tuple[str, ...]) -> None:
    there = set(_part(*lists))
    cuda = _runtime_lock().names_in((IMAGES / "cuda.txt").read_text()) if "cuda.txt" in lists else set()
    assert _needed(*_dependencies()) - cuda <= there


def test_what_images_install_is_complete_by_itself() -> None:
    there = _part("not_in_images.txt")
    assert _needed(*there) <= set(there)


def test_every_entry_is_the_locks_own_with_its_hashes() -> None:
    for entry in _part("not_in_images.txt").values():
        assert entry in LOCK
        assert "--hash=sha256:" in entry


def test_images_hold_no_development_tool() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = project["optional-dependencies"]["dev"]
    development = {_runtime_lock().normalized(Requirement(one).name) for one in named}
    assert len(development) > 10
    assert not (development - _needed(*_dependencies())) & set(_part("not_in_images.txt"))


def test_the_names_left_out_are_in_the_lock() -> None:
    module = _runtime_lock()
    locked = {name for name, _ in module.entries(LOCK)}
    for name in ("not_in_images.txt", "cuda.txt"):
        assert module.names_in((IMAGES / name).read_text()) <= locked, name


def test_the_tpu_image_adds_pinned_packages_beside_the_lock() -> None:
    module = _runtime_lock()
    added = dict(module.entries((IMAGES / "tpu.lock").read_text()))
    assert not set(added) & set(_part("not_in_images.txt")), "pinned twice"
    assert all("--hash=sha256:" in entry for entry in added.values())
    # torch-tpu 0.2.0 says torch>=2.11.0,<=2.15.0.
    assert added["torch-tpu"].startswith("torch-tpu==0.2.0 ")
    (version,) = re.findall(r"^torch==2\.(\d+)\.", LOCK, re.MULTILINE)
    assert 11 <= int(version) < 15


def test_the_package_builds_from_what_dockerignore_lets_through(tmp_path: Path) -> None:
    allowed = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = {part for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.M) for part in line.split()}
    assert all(any(one.startswith(path) for path in allowed) for one in copied)
    context = tmp_path / "context"
    for path in ("pyproject.toml", "README.md", "LICENSE", "progdistill"):
        assert path in copied
        context.mkdir(exist_ok=True)
        subprocess.run(["cp", "-r", ROOT / path, context], check=True)
    target = tmp_path / "package"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", target, context], check=True)
    command = [sys.executable, "-m", "progdistill.cli.main", "--version"]
    environment = {"PYTHONPATH": str(target), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("progdistill ")
    assert (target / "bin" / "progdistill").exists()
    for folder in ("report", "jobs/kubernetes"):
        assert list((target / "progdistill" / folder / "templates").glob("*.j2"))
