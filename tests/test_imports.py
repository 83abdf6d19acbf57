"""Imports run one way, and what the flow's steps import stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "progdistill"
LEVEL = {
    "diffusion": 0,
    "models": 1,
    "data": 1,
    "artifacts": 1,
    "training": 2,
    "evaluation": 2,
    "report": 2,
    "jobs": 3,
    "planning": 4,
}


def _imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("room", sorted(LEVEL))
def test_a_room_imports_only_rooms_below_it_or_beside_it(room: str) -> None:
    for path in (PACKAGE / room).glob("*.py"):
        for name in _imported(path):
            parts = name.split(".")
            if parts[0] == "progdistill" and len(parts) > 1 and parts[1] in LEVEL:
                assert LEVEL[parts[1]] <= LEVEL[room], f"{path} imports {name}"


@pytest.mark.parametrize(
    "module", ["config", "prepare", "planning.estimate", "jobs.steps", "jobs.reporting", "options"]
)
def test_what_steps_import_brings_no_heavy_library(module: str) -> None:
    heavy = "{'torch', 'boto3', 'sklearn', 'matplotlib', 'diffusers', 'scipy'}"
    code = f"import sys, progdistill.{module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
