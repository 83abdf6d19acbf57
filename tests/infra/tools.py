"""The tools that the tests here run: pinned packages, so a missing tool is a failure, not a skip."""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
KUBERNETES = INFRA / "kubernetes"
OVERLAYS = sorted(f"overlays/{path.name}" for path in (KUBERNETES / "overlays").iterdir())

KUBERNETES_VERSION = "1.35"
"""The release whose schemas hold; infra/aws/cluster.yaml makes a cluster of it."""


def tool(name: str) -> str:
    """Path of a program that a package puts beside the interpreter."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert found is not None, f"{name} is missing; `make setup` installs it"
    return found


def run(*command: str | Path, **kwargs: Any) -> "subprocess.CompletedProcess[str]":
    """Run a command in the repository's root, its output as text.

    It gets no home, where a person's own settings of it would be, and a locale in which hadolint can read.
    """
    environment = {**os.environ, "HOME": os.devnull, "XDG_CONFIG_HOME": os.devnull, "LC_ALL": "C.UTF-8"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, **kwargs)


@cache
def kustomize(folder: str) -> str:
    """What `kubectl apply -k` would send: the real kustomize, which needs no cluster."""
    done = run(tool("kubectl"), "kustomize", KUBERNETES / folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(folder: str) -> list[dict[str, Any]]:
    """The objects of a rendered folder."""
    return [one for one in yaml.safe_load_all(kustomize(folder)) if one]


def of_kind(folder: str, kind: str) -> list[dict[str, Any]]:
    """The objects of one kind."""
    return [one for one in objects(folder) if one["kind"] == kind]


def quantity(text: str) -> float:
    """A Kubernetes quantity as a number: bytes of memory, CPU cores."""
    units = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    number = text.rstrip("kMGTim")
    return float(number) * units.get(text[len(number) :], 1)
